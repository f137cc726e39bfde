import KnetCore

/// Packets by hand.
struct TestPacket {
    var source: IPAddress
    var destination: IPAddress
    var transport: UInt8 = 17
    var lifetime: UInt8 = 64
    /// Of the IPv4 header's flags and offset.
    var fragment: UInt16 = 0
    var options: [UInt8] = []
    /// Ports and what else its transport has; of TCP a header without anything set.
    var payload: [UInt8] =
        [0x12, 0x34, 0x00, 0x35, 0x00, 0x10, 0, 0, 0, 0, 0, 0, 0x50, 0] + [UInt8](repeating: 7, count: 8)
    var vlan = false

    /// Of TCP's header.
    enum Flags {
        static let (fin, syn, rst, ack): (UInt8, UInt8, UInt8, UInt8) = (1, 2, 4, 16)
    }

    /// The same with TCP's flags.
    func with(flags: UInt8) -> TestPacket {
        var packet = self
        packet.transport = 6
        packet.payload[13] = flags
        return packet
    }

    /// Between the same ends, from the other.
    var answer: TestPacket {
        var packet = self
        (packet.source, packet.destination) = (destination, source)
        packet.payload[..<4] = payload[2..<4] + payload[..<2]
        return packet
    }

    /// The first of its fragments.
    var firstPiece: TestPacket {
        var piece = self
        if source.family == .v4 {
            piece.fragment = 0x2000
        } else {
            // The header before its own, <linux/ipv6.h>: more follow.
            piece.transport = 44
            piece.payload = [transport, 0, 0, 1, 0, 0, 0, 7] + payload
        }
        return piece
    }

    /// Its receiver's error about it, to its sender.
    var error: TestPacket { error(of: destination) }

    /// An error about it, of its receiver or a router.
    func error(of sender: IPAddress) -> TestPacket {
        let isIPv4 = source.family == .v4
        return TestPacket(
            source: sender, destination: source, transport: isIPv4 ? 1 : 58,
            payload: [isIPv4 ? 3 : 1, isIPv4 ? 3 : 4, 0, 0, 0, 0, 0, 0] + bytes[14...])
    }

    /// Where its transport has a checksum.
    private var sumOffset: Int { [6: 16, 17: 6][transport] ?? 2 }

    /// The same with its transport's checksum.
    var summed: TestPacket {
        var packet = self
        packet.payload[sumOffset] = 0
        packet.payload[sumOffset + 1] = 0
        let sum = Self.transportSum(packet.bytes)
        packet.payload[sumOffset] = UInt8(sum >> 8)
        packet.payload[sumOffset + 1] = UInt8(sum & 255)
        return packet
    }

    /// Of a packet without options: the checksum of its transport, over what its header says; 0 where that is in it already.
    static func transportSum(_ bytes: [UInt8]) -> UInt16 {
        let isIPv4 = bytes[12] == 8
        let (transport, start) = isIPv4 ? (bytes[23], 34) : (bytes[20], 54)
        let length = bytes.count - start
        let addresses = isIPv4 ? bytes[26..<34] : bytes[22..<54]
        let pseudo =
            transport == 1
            ? [] : Array(addresses) + [0, 0, UInt8(length >> 8), UInt8(length & 255), 0, 0, 0, transport]
        return checksum(pseudo + bytes[start...])
    }

    var bytes: [UInt8] {
        let isIPv4 = source.family == .v4
        let type: [UInt8] = isIPv4 ? [8, 0] : [0x86, 0xDD]
        let ethernet: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2] + (vlan ? [0x81, 0, 0, 7] : []) + type
        func short(_ number: Int) -> [UInt8] { [UInt8(number >> 8), UInt8(number & 255)] }
        if isIPv4 {
            let length = 20 + options.count + payload.count
            var header: [UInt8] = [UInt8(0x40 | (5 + options.count / 4)), 0] + short(length) + [0, 1]
            header += short(Int(fragment)) + [lifetime, transport, 0, 0] + source.bytes + destination.bytes + options
            let sum = Self.checksum(header)
            header[10] = UInt8(sum >> 8)
            header[11] = UInt8(sum & 255)
            return ethernet + header + payload
        }
        let header: [UInt8] = [0x60, 0, 0, 0] + short(payload.count) + [transport, lifetime]
        return ethernet + header + source.bytes + destination.bytes + payload
    }

    /// RFC 1071.
    static func checksum(_ header: some Collection<UInt8>) -> UInt16 {
        var sum: UInt32 = 0
        for (index, byte) in header.enumerated() { sum += UInt32(byte) << (index % 2 == 0 ? 8 : 0) }
        while sum > 0xFFFF { sum = (sum & 0xFFFF) + (sum >> 16) }
        return ~UInt16(sum)
    }
}
