import APIDouble
import KnetCore
import Testing

@Suite struct WatchTests {
    @Test("a watch tells what happens after its revision, in order")
    func changes() async throws {
        try await Client.with { client in
            let server = client.server
            let start = try #require(try server.put(Example.pod("a")).revision)
            try server.put(Example.pod("b"))
            let events = try await client.watch("/api/v1/pods?watch=1&resourceVersion=\(start)", count: 4) {
                try server.put(Example.pod("a", node: "n"))
                try server.put(Example.node("n"))
                server.delete(.pods, namespace: "default", name: "b")
                try server.put(Example.pod("c"))
            }
            #expect(events.map(\.line) == ["ADDED b", "MODIFIED a", "DELETED b", "ADDED c"])
            #expect(events.compactMap { $0["object"]?.revision } == [1002, 1003, 1005, 1006])
        }
    }

    @Test("a watch goes on where another stopped")
    func resume() async throws {
        try await Client.with { client in
            let server = client.server
            try server.put(Example.pod("a"))
            let first = try await client.watch("/api/v1/pods?watch=1&resourceVersion=1000", count: 1)
            let last = try #require(first.first?["object"]?.revision)
            try server.put(Example.pod("b"))
            let second = try await client.watch("/api/v1/pods?watch=1&resourceVersion=\(last)", count: 1)
            #expect(second.map(\.line) == ["ADDED b"])
        }
    }

    @Test("a forgotten revision is an ERROR event with 410 and the end")
    func expired() async throws {
        try await Client.with { client in
            let start = try #require(try client.server.put(Example.pod("a")).revision)
            try client.server.put(Example.pod("b"))
            client.server.compact()
            let events = try await client.watch("/api/v1/pods?watch=1&resourceVersion=\(start)")
            #expect(events.map(\.line) == ["ERROR 410"])
            #expect(events.first?.at("object", "reason")?.string == "Expired")
            #expect(events.first?.at("object", "message")?.string == "too old resource version: 1001 (1002)")
        }
    }

    @Test("by option a forgotten revision is HTTP status 410")
    func refused() async throws {
        var options = APIDouble.Options()
        options.refusesOldWatches = true
        try await Client.with(options) { client in
            let refusal = try await client.get("/api/v1/pods?watch=1&resourceVersion=1")
            #expect(refusal.code == 410)
        }
    }

    @Test("a watch from the future says nothing until it is there")
    func future() async throws {
        try await Client.with { client in
            let server = client.server
            let events = try await client.watch("/api/v1/pods?watch=1&resourceVersion=1002", count: 1) {
                for name in ["a", "b", "c"] { try server.put(Example.pod(name)) }
            }
            #expect(events.map(\.line) == ["ADDED c"])
        }
    }

    @Test("initial events end with a bookmark that says so")
    func watchList() async throws {
        try await Client.with { client in
            let server = client.server
            try server.putMany([Example.pod("b"), Example.pod("a"), Example.node("n")])
            let path =
                "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1"
            let events = try await client.watch(path, count: 4) { try server.put(Example.pod("c")) }
            #expect(
                events.prefix(3).map(\.line) == ["ADDED a", "ADDED b", "BOOKMARK end"] || events[2].line == "ADDED c")
            #expect(events.map(\.line).contains("BOOKMARK end"))
            let bookmark = events.first { $0.line == "BOOKMARK end" }?["object"]
            #expect(bookmark?["kind"]?.string == "Pod")
            #expect(try #require(bookmark?.revision) >= 1003)
        }
    }

    @Test("initial events of the future are an ERROR event with 504")
    func tooLarge() async throws {
        try await Client.with { client in
            let path =
                "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=9999"
            let events = try await client.watch(path)
            #expect(events.map(\.line) == ["ERROR 504"])
        }
    }

    @Test("a server without WatchList refuses initial events with 422, word for word")
    func withoutWatchList() async throws {
        var options = APIDouble.Options()
        options.watchList = false
        try await Client.with(options) { client in
            let refusal = try await client.get(
                "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")
            let expected = try JSONValue(
                text: #"""
                    {"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled","reason":"Invalid","details":{"group":"meta.k8s.io","kind":"ListOptions","causes":[{"reason":"FieldValueForbidden","message":"Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled","field":"sendInitialEvents"}]},"code":422}
                    """#)
            #expect(refusal.code == 422)
            #expect(refusal.json == expected)
        }
    }

    @Test(
        "bookmarks tell the revision of other resources' writes, and one comes before the end", .timeLimit(.minutes(1)))
    func bookmarks() async throws {
        var options = APIDouble.Options()
        options.bookmarkInterval = .milliseconds(300)
        try await Client.with(options) { client in
            let server = client.server
            let path = "/api/v1/pods?watch=1&resourceVersion=1000&allowWatchBookmarks=true&timeoutSeconds=1"
            let events = try await client.watch(path) { try server.put(Example.node("n")) }
            #expect(events.count >= 2)
            #expect(events.allSatisfy { $0.line == "BOOKMARK" })
            #expect(events.last?["object"]?.revision == 1001)
        }
    }

    @Test("a watch without bookmarks ends in silence", .timeLimit(.minutes(1)))
    func timeout() async throws {
        try await Client.with { client in
            let events = try await client.watch("/api/v1/pods?watch=1&resourceVersion=1000&timeoutSeconds=1")
            #expect(events.isEmpty)
        }
    }

    @Test("an object that enters a selection is ADDED, one that leaves it DELETED as it was")
    func selection() async throws {
        try await Client.with { client in
            let server = client.server
            try server.put(Example.pod("a"))
            let path = "/api/v1/pods?watch=1&resourceVersion=1001&fieldSelector=spec.nodeName%3Dn1"
            let events = try await client.watch(path, count: 3) {
                try server.put(Example.pod("b", node: "n2"))
                try server.put(Example.pod("a", node: "n1"))
                try server.put(Example.pod("a", node: "n1", labels: ["x": "y"]))
                try server.put(Example.pod("a", node: "n2"))
            }
            #expect(events.map(\.line) == ["ADDED a", "MODIFIED a", "DELETED a"])
            #expect(events.last?.at("object", "spec", "nodeName")?.string == "n1")
            #expect(events.last?["object"]?.revision == server.revision)
        }
    }

    @Test("open watches are counted by resource, until the client is gone", .timeLimit(.minutes(1)))
    func counts() async throws {
        try await Client.with { client in
            let watching = Task { try await client.watch("/api/v1/pods?watch=1") }
            #expect(await client.server.waitForWatches(of: [.pods]))
            #expect(client.server.openWatches == ["pods": 1])
            watching.cancel()
            while client.server.openWatches != [:] { try await Task.sleep(for: .milliseconds(5)) }
        }
    }

    @Test("a server with another history starts low and ends all watches")
    func forgotten() async throws {
        try await Client.with { client in
            let server = client.server
            try server.putMany([Example.pod("a"), Example.node("n")])
            try await server.forgetEverything(objectsToo: false, revision: 5)
            #expect(server.openWatches == [:])
            let list = try await client.get("/api/v1/pods").json
            #expect(list?.names == ["a"])
            #expect(list?.revision == 7)
            try await server.forgetEverything(objectsToo: true)
            #expect(server.objects(.pods).isEmpty)
        }
    }
}
