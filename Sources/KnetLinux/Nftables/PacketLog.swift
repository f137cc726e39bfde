import CMnl
import Glibc
public import KnetCore

/// A packet of which a rule told (nfnetlink_log).
public struct LoggedPacket: Sendable, Equatable {
    /// What the rule says before it.
    public let prefix: String
    public let source: IPAddress
    public let destination: IPAddress
    /// IANA's number.
    public let transport: UInt8
    /// Of TCP, UDP and SCTP.
    public let sourcePort: UInt16?
    public let port: UInt16?
    /// Index of the interface by which it came.
    public let interface: UInt32?
    /// Bytes of the whole packet.
    public let length: Int

    /// - Parameter packet: its first bytes, from the network header on.
    /// - Returns: `nil` where it is not of IP.
    public init?(prefix: String, packet: UnsafeRawBufferPointer, interface: UInt32? = nil) {
        guard packet.count >= 20 else { return nil }
        func short(_ offset: Int) -> UInt16? {
            packet.count >= offset + 2 ? UInt16(packet[offset]) << 8 | UInt16(packet[offset + 1]) : nil
        }
        var transportOffset: Int?
        switch packet[0] >> 4 {
        case 4:
            guard let source = IPAddress(bytes: packet[12..<16]), let destination = IPAddress(bytes: packet[16..<20])
            else { return nil }
            (self.source, self.destination) = (source, destination)
            transport = packet[9]
            length = Int(short(2) ?? 0)
            // Fragments behind the first have no ports.
            if (short(6) ?? 0) & 0x1FFF == 0 { transportOffset = Int(packet[0] & 15) * 4 }
        case 6:
            guard packet.count >= 40, let source = IPAddress(bytes: packet[8..<24]),
                let destination = IPAddress(bytes: packet[24..<40])
            else { return nil }
            (self.source, self.destination) = (source, destination)
            length = Int(short(4) ?? 0) + 40
            (transport, transportOffset) = Self.transport(behind: packet)
        default: return nil
        }
        self.prefix = prefix
        self.interface = interface
        let ports = [6, 17, 132].contains(transport) ? transportOffset : nil
        sourcePort = ports.flatMap { short($0) }
        port = ports.flatMap { short($0 + 2) }
    }

    /// The transport of an IPv6 packet, behind hop-by-hop, routing, fragment and destination headers (RFC 8200 §4.1).
    private static func transport(behind packet: UnsafeRawBufferPointer) -> (UInt8, Int?) {
        var (next, offset) = (packet[6], 40)
        for _ in 0..<8 {
            guard [0, 43, 44, 60].contains(next), packet.count >= offset + 8 else { return (next, offset) }
            if next == 44, (UInt16(packet[offset + 2]) << 8 | UInt16(packet[offset + 3])) & 0xFFF8 != 0 {
                return (packet[offset], nil)
            }
            let length = next == 44 ? 8 : (Int(packet[offset + 1]) + 1) * 8
            (next, offset) = (packet[offset], offset + length)
        }
        return (next, nil)
    }
}

/// The packets that rules tell of to one group, in the network namespace of the thread that made this.
public final class PacketLog {
    private let socket: Descriptor
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 16, alignment: 8)

    /// - Throws: where another program listens to the group.
    public init(group: UInt16) throws {
        socket = Descriptor(
            owning: try syscall("packet log") {
                Glibc.socket(AF_NETLINK, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), NETLINK_NETFILTER)
            })
        // Losses are no errors: what is told is a sample.
        var one: Int32 = 1
        setsockopt(socket.number, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, socklen_t(MemoryLayout<Int32>.size))
        var bind = NetlinkMessage.packetLog(group)
        bind.put(NFULA_CFG_CMD.rawValue, bytes: [UInt8(NFULNL_CFG_CMD_BIND.rawValue)])
        try configure(bind, "listen to group \(group) of nfnetlink_log")
        var mode = NetlinkMessage.packetLog(group)
        mode.put(NFULA_CFG_MODE.rawValue, bytes: [0, 0, 0, 128, UInt8(NFULNL_COPY_PACKET), 0])
        // One by one: they are few.
        mode.put(NFULA_CFG_QTHRESH.rawValue, UInt32(1).bigEndian)
        try configure(mode, "have packets of group \(group) told")
    }

    deinit { buffer.deallocate() }

    private func configure(_ message: consuming NetlinkMessage, _ what: String) throws {
        message.setSequence(1, flags: NLM_F_ACK)
        let bytes = message.bytes
        try syscall(what) { send(socket.number, bytes.baseAddress, bytes.count, 0) }
        // Packets may come before the answer.
        for _ in 0..<1_000 {
            let count = try syscall(what) { recv(socket.number, buffer.baseAddress, buffer.count, 0) }
            var answer: Int32?
            try NetlinkSocket.visit(UnsafeRawBufferPointer(rebasing: buffer[..<count])) { reply in
                guard reply.type == Int(NLMSG_ERROR), let error = reply.fixed(nlmsgerr.self) else { return true }
                answer = error.error
                return false
            }
            guard let answer else { continue }
            guard answer == 0 else {
                throw SystemError(
                    what, errno: -answer, detail: -answer == EBUSY ? "another program listens to it" : nil)
            }
            return
        }
    }

    /// Waits for packets for so long, and visits those that came.
    public func read(milliseconds: Int32, _ visit: (LoggedPacket) -> Void) throws {
        var waiting = pollfd(fd: socket.number, events: Int16(POLLIN), revents: 0)
        guard poll(&waiting, 1, milliseconds) > 0 else { return }
        let count = recv(socket.number, buffer.baseAddress, buffer.count, Int32(MSG_DONTWAIT))
        guard count > 0 else { return }
        try NetlinkSocket.visit(UnsafeRawBufferPointer(rebasing: buffer[..<count])) { reply in
            guard reply.type == Int(NFNL_SUBSYS_ULOG) << 8 | Int(NFULNL_MSG_PACKET.rawValue) else { return true }
            let attributes = reply.attributes(after: nfgenmsg.self)
            if let packet = attributes[NFULA_PAYLOAD.rawValue],
                let logged = LoggedPacket(
                    prefix: attributes[NFULA_PREFIX.rawValue]?.text ?? "", packet: packet.bytes,
                    interface: attributes[NFULA_IFINDEX_INDEV.rawValue]?.integer(UInt32.self).map(
                        UInt32.init(bigEndian:)))
            {
                visit(logged)
            }
            return true
        }
    }
}

extension NetlinkMessage {
    fileprivate static func packetLog(_ group: UInt16) -> NetlinkMessage {
        var message = NetlinkMessage(
            "packet log", type: Int(NFNL_SUBSYS_ULOG) << 8 | Int(NFULNL_MSG_CONFIG.rawValue))
        message.put(
            nfgenmsg(nfgen_family: UInt8(AF_UNSPEC), version: UInt8(NFNETLINK_V0), res_id: group.bigEndian))
        return message
    }
}
