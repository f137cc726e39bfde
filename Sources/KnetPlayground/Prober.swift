import Glibc
public import KnetCore
public import KnetLinux

/// Sends real packets from inside one namespace. Every method throws what went wrong.
public struct Prober {
    /// What a probe found to be otherwise than it must be.
    public struct Wrong: Error, CustomStringConvertible {
        public let description: String
    }

    private let namespace: NetworkNamespace
    private let milliseconds: Int
    private let port: UInt16

    /// - Parameters:
    ///   - port: where streams and datagrams go; behind it is an `EchoServer`.
    ///   - milliseconds: how long an answer may take.
    public init(_ namespace: NetworkNamespace, port: UInt16 = EchoServer.port, milliseconds: Int = 2000) {
        self.namespace = namespace
        self.port = port
        self.milliseconds = milliseconds
    }

    /// One ICMP echo.
    /// - Returns: microseconds to the answer.
    @discardableResult
    public func ping(_ address: IPAddress) throws -> Double {
        let isSix = address.family == .v6
        let transport = isSix ? (IPPROTO_ICMPV6) : (IPPROTO_ICMP)
        let descriptor = try open(address.family, SOCK_RAW, transport)
        let mark = UInt16.random(in: 1...UInt16.max)
        var packet: [UInt8] = [isSix ? 128 : 8, 0, 0, 0, UInt8(mark >> 8), UInt8(mark & 0xFF), 0, 1]
        packet += (0..<48).map { UInt8($0) }
        if !isSix {
            let sum = Self.checksum(packet)
            packet[2] = UInt8(sum >> 8)
            packet[3] = UInt8(sum & 0xFF)
        }
        try Sockets.connect(descriptor.number, to: address, port: 0)
        let start = ContinuousClock.now
        try Sockets.sendAll(descriptor.number, packet)
        var buffer = [UInt8](repeating: 0, count: 2048)
        while true {
            let count = try syscall("echo reply from \(address)") { recv(descriptor.number, &buffer, buffer.count, 0) }
            // A raw IPv4 socket gives the IP header too.
            let offset = isSix ? 0 : Int(buffer[0] & 0xF) * 4
            guard count >= offset + 8, buffer[offset] == (isSix ? 129 : 0),
                buffer[offset + 4] == UInt8(mark >> 8), buffer[offset + 5] == UInt8(mark & 0xFF)
            else { continue }
            return (ContinuousClock.now - start) / .microseconds(1)
        }
    }

    /// Sends bytes over TCP to an `EchoServer` and compares what comes back.
    /// - Parameter bytes: how many, at most 1 MiB.
    /// - Returns: the address that the server saw.
    @discardableResult
    public func stream(_ address: IPAddress, bytes: Int) throws -> IPAddress {
        try answer(address, bytes: bytes).seen
    }

    /// Does the same as `stream`.
    /// - Returns: the address that the server saw, and the server's own.
    public func answer(_ address: IPAddress, bytes: Int = 100) throws -> (seen: IPAddress, server: IPAddress) {
        let descriptor = try open(address.family, SOCK_STREAM)
        try Sockets.connect(descriptor.number, to: address, port: port)
        let sent = Array(Self.noise[..<bytes])
        try Sockets.sendAll(descriptor.number, sent)
        shutdown(descriptor.number, Int32(SHUT_WR))
        let answer = try Sockets.receiveAll(descriptor.number)
        guard let line = answer.firstIndex(of: UInt8(ascii: "\n")) else {
            throw Wrong(description: "no greeting from \(address)")
        }
        let names = answer[..<line].split(separator: UInt8(ascii: " ")).map {
            IPAddress(String(decoding: $0, as: UTF8.self))
        }
        guard names.count == 2, let seen = names[0], let server = names[1] else {
            throw Wrong(description: "no greeting from \(address)")
        }
        guard Array(answer[(line + 1)...]) == sent else {
            throw Wrong(
                description: "\(bytes) bytes came back from \(address) as \(answer.count - line - 1) or altered")
        }
        return (seen, server)
    }

    /// Bytes without a pattern that a fault of the network could hide in.
    private static let noise: [UInt8] = {
        var generator = SystemRandomNumberGenerator()
        return (0..<(1 << 17)).flatMap { _ in withUnsafeBytes(of: generator.next() as UInt64, Array.init) }
    }()

    /// One datagram to an `EchoServer`.
    /// - Parameters:
    ///   - bytes: of payload.
    ///   - unfragmented: fails with `EMSGSIZE` rather than being cut on the way.
    public func datagram(_ address: IPAddress, bytes: Int, unfragmented: Bool = false) throws {
        let descriptor = try open(address.family, SOCK_DGRAM)
        try Sockets.connect(descriptor.number, to: address, port: port)
        // Without these the kernel keeps ICMP errors to itself: IP_RECVERR 11, IPV6_RECVERR 25.
        let isSix = address.family == .v6
        Sockets.set(descriptor.number, isSix ? IPPROTO_IPV6 : IPPROTO_IP, isSix ? 25 : 11, 1)
        if unfragmented {
            // IP_PMTUDISC_DO and IPV6_PMTUDISC_DO are both 2, <linux/in.h> and <linux/in6.h>.
            let isSix = address.family == .v6
            Sockets.set(
                descriptor.number, Int(isSix ? IPPROTO_IPV6 : IPPROTO_IP),
                isSix ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER, 2)
        }
        let sent = (0..<bytes).map { UInt8(truncatingIfNeeded: $0) }
        try Sockets.sendAll(descriptor.number, sent)
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        let count = try syscall("datagram from \(address)") { recv(descriptor.number, &buffer, buffer.count, 0) }
        guard buffer[..<count].elementsEqual(sent) else {
            throw Wrong(description: "a datagram came back altered from \(address)")
        }
    }

    /// Checks that packets of exactly `mtu` bytes go both ways whole, and that the sender is told of larger ones.
    public func pathMTU(_ address: IPAddress, is mtu: Int) throws {
        let headers = (address.family == .v4 ? 20 : 40) + 8
        try datagram(address, bytes: mtu - headers, unfragmented: true)
        do {
            try datagram(address, bytes: mtu - headers + 1, unfragmented: true)
        } catch let error as SystemError where error.errno == EMSGSIZE {
            return
        }
        throw Wrong(description: "a packet of \(mtu + 1) bytes to \(address) was not refused")
    }

    private func open(_ family: IPFamily, _ type: __socket_type, _ transport: Int = 0) throws -> Descriptor {
        let number = try namespace.run {
            try Sockets.open(family, type, transport, milliseconds: milliseconds).release()
        }
        return Descriptor(owning: number)
    }

    /// RFC 1071.
    private static func checksum(_ bytes: [UInt8]) -> UInt16 {
        var sum: UInt32 = 0
        for index in stride(from: 0, to: bytes.count, by: 2) {
            sum += UInt32(bytes[index]) << 8 | (index + 1 < bytes.count ? UInt32(bytes[index + 1]) : 0)
        }
        while sum >> 16 != 0 { sum = (sum & 0xFFFF) + (sum >> 16) }
        return ~UInt16(sum)
    }
}

/// One socket of UDP that asks an `EchoServer` again and again from the same port, as resolvers and games do.
public final class DatagramClient {
    private let descriptor: Descriptor

    public init(to address: IPAddress, port: UInt16, in namespace: NetworkNamespace) throws {
        let opened = try namespace.run { () throws -> SharedDescriptor in
            let descriptor = try Sockets.open(address.family, SOCK_DGRAM, milliseconds: 50)
            try Sockets.connect(descriptor.number, to: address, port: port)
            return SharedDescriptor(descriptor)
        }
        descriptor = Descriptor(owning: dup(opened.number))
    }

    /// Sends until an answer comes.
    public func isAnswered(milliseconds: Int) -> Bool {
        let deadline = ContinuousClock.now + .milliseconds(milliseconds)
        var byte: UInt8 = 1
        while ContinuousClock.now < deadline {
            if send(descriptor.number, &byte, 1, 0) == 1, recv(descriptor.number, &byte, 1, 0) == 1 { return true }
            usleep(10_000)
        }
        return false
    }
}

/// One connection of TCP that asks an `EchoServer`'s long port again and again.
public final class StreamClient: Sendable {
    private let descriptor: SharedDescriptor

    /// - Parameters:
    ///   - ownPort: the client's; 0: any.
    ///   - milliseconds: how long one answer may take.
    public init(
        to address: IPAddress, port: UInt16 = EchoServer.longPort, in namespace: NetworkNamespace, ownPort: UInt16 = 0,
        milliseconds: Int = 2000
    ) throws {
        descriptor = try namespace.run { () throws -> SharedDescriptor in
            let descriptor = try Sockets.open(address.family, SOCK_STREAM, milliseconds: milliseconds)
            let anyAddress: IPAddress = address.family == .v4 ? .v4(0) : .v6(0)
            try Sockets.with(anyAddress, port: ownPort) { pointer, length in
                _ = try syscall("bind") { bind(descriptor.number, pointer, length) }
            }
            try Sockets.connect(descriptor.number, to: address, port: port)
            return SharedDescriptor(descriptor)
        }
    }

    /// Sends so many bytes and waits until they are back.
    public func exchange(bytes: Int) throws {
        try Sockets.sendAll(descriptor.number, [UInt8](repeating: 7, count: bytes))
        var left = bytes
        var buffer = [UInt8](repeating: 0, count: bytes)
        while left > 0 {
            let count = try syscall("receive") { recv(descriptor.number, &buffer, left, 0) }
            guard count > 0 else { throw Prober.Wrong(description: "the connection was closed") }
            left -= count
        }
    }
}
