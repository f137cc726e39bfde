import APIDouble
import KnetCore
import Testing

@Suite struct ListTests {
    @Test("a list is sorted and has the revision of the last write, and its items do not repeat their kind")
    func all() async throws {
        try await Client.with { client in
            try client.server.putMany([Example.pod("b"), Example.pod("a"), Example.node("n")])
            let list = try await client.get("/api/v1/pods").json
            #expect(list?["kind"]?.string == "PodList")
            #expect(list?.names == ["a", "b"])
            #expect(list?.revision == client.server.revision)
            #expect(list?["items"]?.array?.first?["kind"] == nil)
        }
    }

    @Test("a namespace's list has only what is in it")
    func namespaced() async throws {
        try await Client.with { client in
            try client.server.put(Example.pod("a"))
            let here = try await client.get("/api/v1/namespaces/default/pods").json
            let there = try await client.get("/api/v1/namespaces/other/pods").json
            #expect(here?.names == ["a"])
            #expect(there?.names == [])
        }
    }

    @Test("pages show one state, whatever is written between them")
    func pages() async throws {
        try await Client.with { client in
            for name in ["a", "b", "c", "d", "e"] { try client.server.put(Example.pod(name)) }
            let first = try #require(try await client.get("/api/v1/pods?limit=2").json)
            #expect(first.names == ["a", "b"])
            #expect(first.at("metadata", "remainingItemCount")?.integer == 3)
            client.server.delete(.pods, namespace: "default", name: "c")
            try client.server.put(Example.pod("bb"))
            var token = first.at("metadata", "continue")?.string
            var names = first.names
            while let next = token {
                let page = try #require(try await client.get("/api/v1/pods?limit=2&continue=\(next)").json)
                #expect(page.revision == first.revision)
                names += page.names
                token = page.at("metadata", "continue")?.string
            }
            #expect(names == ["a", "b", "c", "d", "e"])
        }
    }

    @Test("a page of a compacted state is 410 with a token that goes on with the present one")
    func expiredPage() async throws {
        try await Client.with { client in
            for name in ["a", "b", "c"] { try client.server.put(Example.pod(name)) }
            let first = try await client.get("/api/v1/pods?limit=1").json
            let token = try #require(first?.at("metadata", "continue")?.string)
            try client.server.put(Example.pod("d"))
            client.server.compact()
            let refusal = try await client.get("/api/v1/pods?limit=1&continue=\(token)")
            #expect(refusal.code == 410)
            #expect(refusal.json?["reason"]?.string == "Expired")
            let other = try #require(refusal.json?.at("metadata", "continue")?.string)
            let rest = try await client.get("/api/v1/pods?continue=\(other)").json
            #expect(rest?.names == ["b", "c", "d"])
        }
    }

    @Test("a limit does not divide a list of any age")
    func anyAge() async throws {
        try await Client.with { client in
            for name in ["a", "b", "c"] { try client.server.put(Example.pod(name)) }
            let list = try await client.get("/api/v1/pods?limit=1&resourceVersion=0").json
            #expect(list?.names == ["a", "b", "c"])
        }
    }

    @Test("an exact revision is shown as it was, until it is compacted")
    func exact() async throws {
        try await Client.with { client in
            let old = try #require(try client.server.put(Example.pod("a")).revision)
            try client.server.put(Example.pod("b"))
            client.server.delete(.pods, namespace: "default", name: "a")
            let path = "/api/v1/pods?resourceVersion=\(old)&resourceVersionMatch=Exact"
            let list = try await client.get(path).json
            #expect(list?.names == ["a"])
            #expect(list?.revision == old)
            client.server.compact()
            #expect(try await client.get(path).code == 410)
        }
    }

    @Test("a revision not older than a past one is the present one; one of the future is 504")
    func notOlderThan() async throws {
        try await Client.with { client in
            let old = try #require(try client.server.put(Example.pod("a")).revision)
            try client.server.put(Example.pod("b"))
            let path = "/api/v1/pods?resourceVersionMatch=NotOlderThan&resourceVersion="
            #expect(try await client.get(path + "\(old)").json?.names == ["a", "b"])
            let refusal = try await client.get(path + "99999")
            #expect(refusal.code == 504)
            #expect(refusal.json?["message"]?.string == "Timeout: Too large resource version: 99999, current: 1002")
            #expect(
                refusal.json?.at("details", "causes")?.array?.first?["reason"]?.string == "ResourceVersionTooLarge")
        }
    }

    @Test(
        "options that do not go together are 422",
        arguments: [
            "resourceVersionMatch=Exact", "sendInitialEvents=true", "resourceVersion=0&resourceVersionMatch=Exact",
        ])
    func invalid(query: String) async throws {
        try await Client.with { client in
            let refusal = try await client.get("/api/v1/pods?\(query)")
            #expect(refusal.code == 422)
            #expect(refusal.json?["reason"]?.string == "Invalid")
        }
    }

    @Test(
        "selectors choose by field and label",
        arguments: [
            ("fieldSelector=spec.nodeName%3Dn1", ["a"]), ("fieldSelector=metadata.name=b", ["b"]),
            ("fieldSelector=spec.nodeName!=n1", ["b", "c"]), ("labelSelector=app%3Dx", ["b"]),
            ("labelSelector=!app", ["a", "c"]), ("labelSelector=app&fieldSelector=spec.nodeName%3D", []),
        ])
    func selectors(query: String, names: [String]) async throws {
        try await Client.with { client in
            try client.server.putMany([
                Example.pod("a", node: "n1"), Example.pod("b", node: "n2", labels: ["app": "x"]), Example.pod("c"),
            ])
            #expect(try await client.get("/api/v1/pods?\(query)").json?.names == names)
        }
    }

    @Test("a field that a resource cannot be selected by is 400")
    func unknownField() async throws {
        try await Client.with { client in
            let refusal = try await client.get("/api/v1/services?fieldSelector=spec.nodeName%3Da")
            #expect(refusal.code == 400)
            #expect(refusal.json?["message"]?.string == "field label not supported: spec.nodeName")
        }
    }
}
