import CMnl
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// Asks a server from a pod: as fast as it answers by dnsperf, and one query after the other by itself.
struct DNSClient {
    let namespace: NetworkNamespace
    let folder: String

    private static let processor = "0"

    /// - Returns: queries a second.
    func rate(_ server: DNSServer, _ queries: [String], seconds: Int) throws -> Double {
        let file = "\(folder)/queries"
        try Data((queries.joined(separator: "\n") + "\n").utf8).write(to: URL(fileURLWithPath: file))
        let outcome = try ChildProcess.run(
            "/usr/bin/env",
            [
                "taskset", "-c", Self.processor, "dnsperf", "-s", "\(server.address)", "-p", "\(server.port)", "-d",
                file, "-l",
                "\(seconds)", "-c", "4", "-q", "100",
            ], in: namespace, seconds: seconds + 20)
        func figure(_ label: String) -> Double? {
            outcome.output.split(separator: "\n").first { $0.contains(label) }?.split(whereSeparator: \.isWhitespace)
                .compactMap { Double($0) }.first
        }
        guard let rate = figure("Queries per second:"), figure("Queries lost:") ?? 0 < rate * 0.001 else {
            throw Playground.Failure("dnsperf: \(outcome.errors)\(outcome.output)")
        }
        return rate
    }

    /// Client and server share a processor: else the wake-up of an idle one would hide what the server does.
    /// - Returns: microseconds from each query to its answer.
    func serial(_ server: DNSServer, _ queries: [String], count: Int) throws -> [Double] {
        let messages = queries.prefix(1_000).enumerated().map { Self.message($1, id: UInt16($0)) }
        return try namespace.run {
            _ = knet_pin_to_processor(DNSServer.processorNumber)
            let socket = try Sockets.open(server.address.family, SOCK_DGRAM, milliseconds: 1_000)
            try Sockets.connect(socket.number, to: server.address, port: server.port)
            var bytes = [UInt8](repeating: 0, count: 2_048)
            return try (0..<count).map { index in
                let message = messages[index % messages.count]
                let start = ContinuousClock.now
                _ = send(socket.number, message, message.count, 0)
                guard recv(socket.number, &bytes, bytes.count, 0) > 12, bytes[0] == message[0], bytes[1] == message[1]
                else {
                    throw Playground.Failure("\(server.name) did not answer \(queries[index % messages.count])")
                }
                return (ContinuousClock.now - start) / .microseconds(1)
            }
        }
    }

    /// A line of dnsperf's as a message, without EDNS.
    static func message(_ line: String, id: UInt16) -> [UInt8] {
        let words = line.split(separator: " ")
        let types: [Substring: UInt8] = ["A": 1, "AAAA": 28, "SRV": 33]
        let name = words[0].split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) }
        return [UInt8(id >> 8), UInt8(id & 255), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0] + name + [
            0, 0, types[words[1]] ?? 1, 0, 1,
        ]
    }
}
