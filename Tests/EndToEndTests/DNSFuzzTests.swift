import CMnl
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Broken packets at the running server. `KNETD_FUZZ_RUNS` says how many.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct DNSFuzzTests {
    private static let packets = getenv("KNETD_FUZZ_RUNS").flatMap { Int(String(cString: $0)) } ?? 50_000

    @Test func brokenPacketsNeitherStopNorSwellTheServer() throws {
        try DNSStage.with { stage in
            let process = stage.playground.process(of: "node1")
            let namespace = try stage.playground.namespace("p")
            var generator = MessageGenerator(seed: 3)
            // What is grown to once is not growth.
            _ = try Self.send(min(Self.packets, 50_000), &generator, namespace)
            let before = try Self.resident(process)
            let largest = try Self.send(Self.packets, &generator, namespace)
            let after = try Self.resident(process)
            #expect(largest <= 1_232)
            #expect(after - before < 16, "from \(before) to \(after) MiB")
            #expect(stage.playground.process(of: "node1") == process && kill(process, 0) == 0)
            let answer = try stage.query("web.default.svc.cluster.local")
            #expect(answer.records == ["web.default.svc.cluster.local. a 10.96.0.11"])
            try Self.breakStreams(&generator, namespace)
            let over = try stage.query("web.default.svc.cluster.local", "A", server: DNSStage.clusterDNS, "+tcp")
            #expect(over.code == "NOERROR")
        }
    }

    /// - Returns: bytes of the largest answer.
    private static func send(_ count: Int, _ generator: inout MessageGenerator, _ namespace: NetworkNamespace) throws
        -> Int
    {
        let socket = try namespace.run { () throws -> SharedDescriptor in
            let socket = SharedDescriptor(try Sockets.open(.v4, SOCK_DGRAM, milliseconds: 1))
            try Sockets.connect(socket.number, to: .v4(0x0A60_000A), port: 53)
            return socket
        }
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
