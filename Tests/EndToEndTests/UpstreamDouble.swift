import CMnl
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport

/// A DNS server whose answers, right and wrong, are chosen by the first label of the name below `test` that it is asked; other names do not
/// exist. Good answers are 192.0.2.1 and 2001:db8::1; what must not be believed is 192.0.2.66.
final class UpstreamDouble: Sendable {
    /// Behaviours by first label.
    ///
    /// `ok`, `short` (TTL 1 s), `nx`, `nxbare` (without SOA), `nodata`, `alias` (a chain to `ok.test`), `other` (with records of
    /// others), `servfail`, `refused`, `old` (knows no EDNS), `silent`, `cut` (does not fit: over TCP), `cutslow`, `cutsilent`,
    /// `wrongid`, `wrongname`, `spoofed`, `garbage` (each followed by the right answer), `loop` (a CNAME to itself), `big`
    private let datagram: SharedDescriptor
    private let stream: SharedDescriptor
    private let stranger: SharedDescriptor
    private let isStopped = Atomic(false)
    /// Set while it plays dead.
    let isSilent = Atomic(false)
    private let log = Mutex<[String]>([])

    static let port: UInt16 = 53

    init(at address: IPAddress, port: UInt16 = port, in namespace: NetworkNamespace) throws {
        let sockets = try namespace.run { () throws -> [SharedDescriptor] in
            let kinds: [(__socket_type, UInt16)] = [(SOCK_DGRAM, port), (SOCK_STREAM, port), (SOCK_DGRAM, port + 1)]
            return try kinds.map { type, port in
                let socket = SharedDescriptor(try Sockets.open(address.family, type, milliseconds: 200))
                Sockets.set(socket.number, Int(SOL_SOCKET), SO_REUSEADDR, 1)
                try address.withSocketName(port: port) { name, length in
                    _ = try syscall("bind \(address)") { bind(socket.number, name, length) }
                }
                return socket
            }
        }
        (datagram, stream, stranger) = (sockets[0], sockets[1], sockets[2])
        try syscall("listen") { listen(stream.number, 64) }
        try DedicatedThread.start(name: "upstream-udp") { [self] in serveDatagrams() }
        try DedicatedThread.start(name: "upstream-tcp") { [self] in serveStreams() }
    }

    func stop() { isStopped.store(true, ordering: .relaxed) }

    /// `name type` of all that was asked, over TCP with `tcp` before.
    var queries: [String] { log.withLock { $0 } }
    func forget() { log.withLock { $0 = [] } }

    private func serveDatagrams() {
        var bytes = [UInt8](repeating: 0, count: 4_096)
        while !isStopped.load(ordering: .relaxed) {
            var peer = sockaddr_storage()
            var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let count = withUnsafeMutablePointer(to: &peer) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    recvfrom(datagram.number, &bytes, bytes.count, 0, $0, &length)
                }
            }
            guard count > 12, let query = DoubleQuery(Array(bytes[..<count])), !isSilent.load(ordering: .relaxed) else {
                continue
            }
            log.withLock { $0.append("\(query.name) \(query.type)") }
            func send(_ message: [UInt8], from socket: SharedDescriptor? = nil) {
                withUnsafePointer(to: &peer) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        _ = sendto((socket ?? datagram).number, message, message.count, 0, $0, length)
                    }
                }
            }
            switch query.behaviour {
            case "silent": continue
            case "cut", "cutslow", "cutsilent": send(query.answer(flags: 0x8380))
            case "wrongid": send(query.good("192.0.2.66", id: query.id &+ 1))
            case "wrongname": send(query.good("192.0.2.66", name: "evil.test"))
            case "spoofed": send(query.good("192.0.2.66"), from: stranger)
            case "garbage":
                send([UInt8](repeating: 0xC0, count: 100))
                send(Array(query.good("192.0.2.66").dropLast(7)).prefix(5).map { $0 })
            default: break
            }
            if query.behaviour.hasPrefix("cut") { continue }
            if ["wrongid", "wrongname", "spoofed", "garbage"].contains(query.behaviour) { usleep(20_000) }
            send(query.reply)
        }
    }

    private func serveStreams() {
        while !isStopped.load(ordering: .relaxed) {
            guard let accepted = Descriptor.accepted(from: stream.number) else { continue }
            let connection = SharedDescriptor(accepted)
            Sockets.limit(connection.number, milliseconds: 2_000)
            try? DedicatedThread.start(name: "upstream-connection") { [self] in serve(connection) }
        }
    }

    private func serve(_ connection: SharedDescriptor) {
        var pending: [UInt8] = []
        var bytes = [UInt8](repeating: 0, count: 4_096)
        while !isStopped.load(ordering: .relaxed) {
            let count = recv(connection.number, &bytes, bytes.count, 0)
            guard count > 0 else { return }
            pending += bytes[..<count]
            while pending.count >= 2, pending.count >= 2 + Int(pending[0]) << 8 + Int(pending[1]) {
                let length = Int(pending[0]) << 8 + Int(pending[1])
                let query = DoubleQuery(Array(pending[2..<2 + length]))
                pending.removeFirst(2 + length)
                guard let query else { return }
                log.withLock { $0.append("tcp \(query.name) \(query.type)") }
                if query.behaviour == "cutsilent" { continue }
                let reply = query.reply
                let frame = [UInt8(reply.count >> 8), UInt8(reply.count & 255)] + reply
                guard query.behaviour == "cutslow" else {
                    try? Sockets.sendAll(connection.number, frame)
                    continue
                }
                // Byte by byte, for one second.
                for byte in frame {
                    usleep(UInt32(1_000_000 / frame.count))
                    try? Sockets.sendAll(connection.number, [byte])
                }
            }
        }
    }
}

/// A query as the double reads it: by itself, so that a fault of knetd's reader is not shared.
struct DoubleQuery {
    let id: UInt16
    let name: String
    let type: UInt16
    private let hasEDNS: Bool
    private let question: [UInt8]

    init?(_ bytes: [UInt8]) {
        var (position, labels) = (12, [String]())
        while position < bytes.count, bytes[position] > 0, bytes[position] < 64 {
            let end = position + 1 + Int(bytes[position])
            guard end < bytes.count else { return nil }
            labels.append(String(decoding: bytes[position + 1..<end], as: UTF8.self))
            position = end
        }
        guard position + 5 <= bytes.count else { return nil }
        id = UInt16(bytes[0]) << 8 | UInt16(bytes[1])
        name = labels.joined(separator: ".").lowercased()
        type = UInt16(bytes[position + 1]) << 8 | UInt16(bytes[position + 2])
        question = Array(bytes[12..<position + 5])
        hasEDNS = bytes[11] == 1
    }

    var behaviour: String { name.hasSuffix("test") ? name.split(separator: ".").first.map(String.init) ?? "" : "nx" }

    /// What an honest server says.
    var reply: [UInt8] {
        let start = record("", 6, [0, 0] + [UInt8](repeating: 0, count: 16) + [0, 0, 0, 60], ttl: 60)
        switch behaviour {
        case "nx": return answer(flags: 0x8183, authority: [start])
        case "nxbare": return answer(flags: 0x8183)
        case "nodata": return answer(authority: [start])
        case "servfail": return answer(flags: 0x8182)
        case "refused": return answer(flags: 0x8185)
        case "old" where hasEDNS: return answer(flags: 0x8181)
        case "short": return answer([address(name, ttl: 1)])
        case "alias":
            return answer([
                record(name, 5, "middle.test".labels, ttl: 60),
                record("middle.test", 5, "ok.test".labels, ttl: 60),
                address("ok.test"),
            ])
        case "other": return answer([record("bank.test", 1, [192, 0, 2, 66], ttl: 60), address(name)])
        case "loop": return answer([record(name, 5, name.labels, ttl: 60)])
        case "big": return answer((1...60).map { record(name, 1, [192, 0, 2, UInt8($0)], ttl: 60) })
        default: return answer([address(name)])
        }
    }

    private func address(_ name: String, ttl: UInt32 = 60) -> [UInt8] {
        type == 28
            ? record(name, 28, [0x20, 1, 0xD, 0xB8] + [UInt8](repeating: 0, count: 11) + [1], ttl: ttl)
            : record(name, 1, [192, 0, 2, 1], ttl: ttl)
    }

    func good(_ text: String, id: UInt16? = nil, name: String? = nil) -> [UInt8] {
        let bytes = IPAddress(text)?.bytes ?? []
        return answer([record(name ?? self.name, 1, bytes, ttl: 60)], id: id, name: name)
    }

    private func record(_ name: String, _ type: UInt16, _ data: [UInt8], ttl: UInt32) -> [UInt8] {
        name.labels + [0, UInt8(type), 0, 1] + (0..<4).map { UInt8(truncatingIfNeeded: ttl >> (24 - 8 * $0)) }
            + [UInt8(data.count >> 8), UInt8(data.count & 255)] + data
    }

    func answer(
        flags: UInt16 = 0x8180, _ answers: [[UInt8]] = [], authority: [[UInt8]] = [], id: UInt16? = nil,
        name: String? = nil
    ) -> [UInt8] {
        let id = id ?? self.id
        let question = name.map { $0.labels + self.question.suffix(4) } ?? self.question
        return [
            UInt8(id >> 8), UInt8(id & 255), UInt8(flags >> 8), UInt8(flags & 255), 0, 1, 0, UInt8(answers.count), 0,
            UInt8(authority.count), 0, 0,
        ]
            + question + answers.joined() + authority.joined()
    }
}
