import APIDouble
import AsyncHTTPClient
import KnetCore
import Synchronization
import TestSupport
import Testing

@Suite(.serialized) struct ConvergenceTests {
    /// The least that is right: lists, watches on, starts again after everything odd, and does not wait for a silent stream.
    private final class Reflector: Sendable {
        private let client: Client
        private let known = Mutex<[String: Int]>([:])

        init(_ client: Client) { self.client = client }

        var objects: [String: Int] { known.withLock { $0 } }

        func run() async {
            var revision: Int?
            while !Task.isCancelled {
                do {
                    if revision == nil { revision = try await list() }
                    revision = try await watch(from: revision ?? 0)
                } catch {
                    revision = nil
                    try? await Task.sleep(for: .milliseconds(5))
                }
            }
        }

        private struct Odd: Error {}

        private func list() async throws -> Int {
            let answer = try await client.get("/api/v1/pods")
            guard answer.code == 200, let list = answer.json, let items = list["items"]?.array,
                let revision = list.revision
            else { throw Odd() }
            known.withLock { known in
                known = [:]
                for item in items { known[item.name ?? ""] = item.revision }
            }
            return revision
        }

        private func watch(from start: Int) async throws -> Int {
            let path = "/api/v1/pods?watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion=\(start)"
            return try await withThrowingTaskGroup(of: Int.self) { group in
                group.addTask { try await self.follow(path, from: start) }
                group.addTask {
                    try await Task.sleep(for: .milliseconds(1500))
                    throw Odd()
                }
                defer { group.cancelAll() }
                return try await group.next() ?? start
            }
        }

        private func follow(_ path: String, from start: Int) async throws -> Int {
            let response = try await client.begin(path)
            guard response.code == 200 else { throw Odd() }
            var last = start
            var lines = LineReader()
            for try await chunk in response.body {
                for line in lines.read(chunk) {
                    let event = try JSONValue(text: line)
                    guard let type = event["type"]?.string, type != "ERROR", let object = event["object"],
                        let revision = object.revision
                    else { throw Odd() }
                    if type != "BOOKMARK", let name = object.name {
                        known.withLock { $0[name] = type == "DELETED" ? nil : revision }
                    }
                    last = revision
                }
            }
            return last
        }
    }

    @Test(
        "whatever went wrong, a correct client ends with the server's state", .timeLimit(.minutes(1)),
        arguments: [1, 2, 3] as [UInt64])
    func everything(seed: UInt64) async throws {
        var options = APIDouble.Options()
        options.bookmarkInterval = .milliseconds(200)
        try await Client.with(options) { client in
            let server = client.server
            server.faults = .everything(0.03, seed: seed)
            // Each costs the client a second and a half, in which nothing else goes wrong.
            server.faults.silence = 0.003
            server.faults.longestDelay = .milliseconds(20)
            let reflector = Reflector(client)
            let running = Task { await reflector.run() }
            var generator = SeededGenerator(seed: seed)
            for _ in 0..<400 {
                let name = "p\(Int.random(in: 0..<20, using: &generator))"
                if Int.random(in: 0..<3, using: &generator) == 0 {
                    server.delete(.pods, namespace: "default", name: name)
                } else {
                    try server.put([
                        "apiVersion": "v1", "kind": "Pod", "metadata": ["name": .string(name)],
                        "spec": ["nodeName": "n"],
                    ])
                }
                try await Task.sleep(for: .milliseconds(5))
            }
            server.faults = .none
            let wanted = Dictionary(
                uniqueKeysWithValues: server.objects(.pods).map { ($0.name ?? "", $0.revision ?? 0) })
            let deadline = ContinuousClock.now + .seconds(20)
            while reflector.objects != wanted, ContinuousClock.now < deadline {
                try await Task.sleep(for: .milliseconds(20))
            }
            #expect(reflector.objects == wanted)
            #expect(server.requests.count > 10)
            running.cancel()
            _ = await running.value
        }
    }
}
