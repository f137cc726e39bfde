import APIDouble
import AsyncHTTPClient
import FoundationEssentials
import KnetCore
import NIOCore
import Testing

@Suite struct FaultTests {
    @Test("a faulty request is refused in the way that was asked for", arguments: [429, 500, 503])
    func refusals(code: Int) async throws {
        try await Client.with { client in
            var faults = APIDouble.Faults()
            switch code {
            case 429: faults.tooManyRequests = 1
            case 500: faults.serverError = 1
            default: faults.unavailable = 1
            }
            client.server.faults = faults
            let answer = try await client.get("/api/v1/pods")
            #expect(answer.code == code)
            if code == 429 { #expect(answer.headers["Retry-After"] == "1") }
            client.server.faults = .none
            #expect(try await client.get("/api/v1/pods").code == 200)
        }
    }

    @Test("a connection is closed without an answer")
    func noAnswer() async throws {
        try await Client.with { client in
            client.server.faults.noAnswer = 1
            await #expect(throws: (any Error).self) { try await client.get("/api/v1/pods") }
            #expect(client.server.requests.last?.code == nil)
        }
    }

    @Test("a list breaks off before its end")
    func truncated() async throws {
        try await Client.with { client in
            try client.server.put(Example.pod("a"))
            client.server.faults.truncatedList = 1
            await #expect(throws: (any Error).self) { try await client.get("/api/v1/pods") }
        }
    }

    @Test("an answer comes late")
    func delay() async throws {
        try await Client.with { client in
            client.server.faults.delay = 1
            client.server.faults.longestDelay = .milliseconds(50)
            let answer = try await client.get("/api/v1/pods")
            #expect(answer.code == 200)
        }
    }

    /// The lines of a watch that begins with `a`, `b`, `c` while a fault is on; `broken` if the connection broke.
    private func lines(_ fault: WritableKeyPath<APIDouble.Faults, Double>) async throws -> [String] {
        var lines: [String] = []
        try await Client.with { client in
            for name in ["a", "b", "c"] { try client.server.put(Example.pod(name)) }
            client.server.faults[keyPath: fault] = 1
            let response = try await client.begin("/api/v1/pods?watch=1&resourceVersion=1000&timeoutSeconds=1")
            var text = ""
            do {
                for try await chunk in response.body { text += String(buffer: chunk) }
            } catch {
                lines.append("broken")
            }
            lines =
                text.split(separator: "\n").map { (try? JSONValue(text: String($0)))?.line ?? "garbage" } + lines
        }
        return lines
    }

    @Test("a stream ends cleanly") func cleanCut() async throws { #expect(try await lines(\.cleanCut) == []) }

    @Test("a stream breaks inside a frame")
    func cutInside() async throws { #expect(try await lines(\.cutInsideFrame) == ["garbage", "broken"]) }

    @Test("a connection is reset") func reset() async throws { #expect(try await lines(\.reset) == ["broken"]) }

    @Test("events come twice")
    func duplicate() async throws {
        #expect(try await lines(\.duplicate) == ["ADDED a", "ADDED a", "ADDED b", "ADDED b", "ADDED c", "ADDED c"])
    }

    @Test("older events come again, and all that followed them")
    func replay() async throws {
        #expect(try await lines(\.replay) == ["ADDED a", "ADDED a", "ADDED b", "ADDED a", "ADDED b", "ADDED c"])
    }

    @Test("ERROR events end a stream")
    func errors() async throws {
        #expect(try await lines(\.expired) == ["ERROR 410"])
        #expect(try await lines(\.failed) == ["ERROR 500"])
    }

    @Test("garbage comes instead of events")
    func garbage() async throws {
        #expect(try await lines(\.garbage) == ["garbage", "garbage", "garbage"])
    }

    @Test("a silent watch stays open and says nothing, also not that its time is over")
    func silence() async throws {
        try await Client.with { client in
            client.server.faults.silence = 1
            try client.server.put(Example.pod("a"))
            let response = try await client.begin("/api/v1/pods?watch=1&resourceVersion=1000&timeoutSeconds=1")
            // The answer's head comes before the event that falls victim.
            #expect(await client.server.waitForSilence())
            client.server.faults = .none
            try client.server.put(Example.pod("b"))
            let first = try await withThrowingTaskGroup(of: ByteBuffer?.self) { group in
                group.addTask { try await response.body.first { _ in true } }
                group.addTask {
                    try await Task.sleep(for: .seconds(2))
                    return ByteBuffer(string: "nothing")
                }
                defer { group.cancelAll() }
                return try await group.next() ?? nil
            }
            #expect(first.map { String(buffer: $0) } == "nothing")
        }
    }

    @Test("a withheld end of the initial events comes with the next bookmark")
    func withheld() async throws {
        var options = APIDouble.Options()
        options.bookmarkInterval = .milliseconds(300)
        try await Client.with(options) { client in
            let server = client.server
            server.faults.withheldBookmark = 1
            let path =
                "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1"
            let events = try await client.watch(path, count: 1) {
                Task {
                    try await Task.sleep(for: .milliseconds(100))
                    server.faults = .none
                }
            }
            #expect(events.map(\.line) == ["BOOKMARK end"])
        }
    }

    @Test("a write can forget the history")
    func compaction() async throws {
        try await Client.with { client in
            client.server.faults.compaction = 1
            try client.server.put(Example.pod("a"))
            #expect(
                try await client.watch("/api/v1/pods?watch=1&resourceVersion=1000").map(\.line) == ["ERROR 410"])
        }
    }
}
