import CMnl
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport
import Testing

/// Broken packets at the running server. `KNETD_FUZZ_RUNS` says how many.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct DNSFuzzTests {
    private static let packets = getenv("KNETD_FUZZ_RUNS").flatMap { Int(String(cString: $0)) } ?? 250_000

    @Test func brokenPacketsNeitherStopNorSwellTheServer() throws {
        try DNSStage.with { stage in
            let process = stage.playground.process(of: "node1")
            let namespace = try stage.playground.namespace("p")
            var generator = MessageGenerator(seed: 3)
            // How many questions wait at once, and with that what the server grows to, is a matter of the moment. What is
            // lost for good is lost in each round.
            var sizes: [Int] = []
            for _ in 0..<5 {
                let largest = try Self.send(Self.packets / 5, &generator, namespace)
                #expect(largest <= 1_232)
                sizes.append(try Self.resident(process))
            }
            let growth = zip(sizes, sizes.dropFirst()).map { $1 - $0 }
            #expect(growth.contains { $0 < 4 }, "MiB after each round: \(sizes)")
            #expect(stage.playground.process(of: "node1") == process && kill(process, 0) == 0)
            let answer = try stage.query("web.default.svc.cluster.local")
            #expect(answer.records == ["web.default.svc.cluster.local. a 10.96.0.11"])
            try Self.breakStreams(&generator, namespace)
            let over = try stage.query("web.default.svc.cluster.local", "A", server: DNSStage.clusterDNS, "+tcp")
            #expect(over.code == "NOERROR")
        }
    }

    /// More questions than may wait, while others say nothing.
    @Test func whoAsksForTooMuchIsToldSoAtOnce() throws {
        // With fewer descriptors than that takes, as service managers give; the daemon asks for more.
        try DNSStage.with(["maxConcurrent": 300], wrapper: ["prlimit", "--nofile=256:8192"]) { stage in
            #expect(try stage.query("short.test").code == "NOERROR")
            // After which that is out of date.
            usleep(1_100_000)
            for upstream in stage.upstreams { upstream.isSilent.store(true, ordering: .relaxed) }
            let socket = try Self.client(stage.playground.namespace("p"))
            let start = ContinuousClock.now
            var failed = 0
            for number in 0..<1_000 {
                let query = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0] + "n\(number).example".labels + [0, 1, 0, 1]
                _ = Glibc.send(socket.number, query, query.count, 0)
                // No faster than the server takes them.
                if number % 32 == 31 { usleep(2_000) }
                failed += Self.failures(socket)
            }
            while ContinuousClock.now - start < .seconds(3), failed < 700 { failed += Self.failures(socket) }
            #expect(failed == 700, "of 1,000 in \(ContinuousClock.now - start)")
            #expect(
                try stage.query("web.default.svc.cluster.local").records == [
                    "web.default.svc.cluster.local. a 10.96.0.11"
                ])
            #expect(try stage.query("short.test").code == "NOERROR", "though it is out of date")
            #expect(try stage.query("other.example", "A", server: DNSStage.clusterDNS, "+tcp").code == "SERVFAIL")
            #expect(ContinuousClock.now - start < .seconds(4), "none of these waited")
            for upstream in stage.upstreams { upstream.isSilent.store(false, ordering: .relaxed) }
            try eventually(within: 12) { try stage.query("ok.test").code == "NOERROR" }
            let refusals = try metric("coredns_forward_max_concurrent_rejects_total", of: "node1", stage.playground)
            #expect(refusals >= 702)
        }
    }

    /// - Returns: how many SERVFAIL wait.
    private static func failures(_ socket: SharedDescriptor) -> Int {
        var (bytes, count) = ([UInt8](repeating: 0, count: 1_500), 0)
        while recv(socket.number, &bytes, bytes.count, Int32(MSG_DONTWAIT)) > 3 { count += bytes[3] & 15 == 2 ? 1 : 0 }
        return count
    }

    private static func client(_ namespace: NetworkNamespace) throws -> SharedDescriptor {
        try namespace.run {
            let socket = SharedDescriptor(try Sockets.open(.v4, SOCK_DGRAM, milliseconds: 100))
            try Sockets.connect(socket.number, to: .v4(0x0A60_000A), port: 53)
            return socket
        }
    }

    /// - Returns: bytes of the largest answer.
    private static func send(_ count: Int, _ generator: inout MessageGenerator, _ namespace: NetworkNamespace) throws
        -> Int
    {
        let socket = try client(namespace)
        var (bytes, largest) = ([UInt8](repeating: 0, count: 65_536), 0)
        for number in 0..<count {
            let query = generator.query()
            _ = Glibc.send(socket.number, query, query.count, 0)
            // Now and then all answers are taken, so that the server is never far behind.
            guard number % 64 == 63 || number == count - 1 else { continue }
            while true {
                let length = recv(socket.number, &bytes, bytes.count, number == count - 1 ? 0 : Int32(MSG_DONTWAIT))
                guard length > 0 else { break }
                largest = max(largest, length)
            }
        }
        return largest
    }

    /// Connections with broken frames, and with frames that never end.
    private static func breakStreams(_ generator: inout MessageGenerator, _ namespace: NetworkNamespace) throws {
        for number in 0..<200 {
            let socket = try namespace.run { () throws -> SharedDescriptor in
                let socket = SharedDescriptor(try Sockets.open(.v4, SOCK_STREAM, milliseconds: 200))
                try Sockets.connect(socket.number, to: .v4(0x0A60_000A), port: 53)
                return socket
            }
            let query = generator.query()
            let length = number % 3 == 0 ? 65_535 : query.count
            try? Sockets.sendAll(socket.number, [UInt8(length >> 8), UInt8(length & 255)] + query)
            var bytes = [UInt8](repeating: 0, count: 4_096)
            if number % 5 == 0 { _ = recv(socket.number, &bytes, bytes.count, 0) }
        }
    }

    /// - Returns: MiB.
    private static func resident(_ process: Int32) throws -> Int {
        let status = try String(contentsOf: URL(fileURLWithPath: "/proc/\(process)/status"), encoding: .utf8)
        let line = status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") }
        return (line?.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) } ?? 0) / 1_024
    }
}
