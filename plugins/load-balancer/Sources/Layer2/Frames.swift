import KnetCore

/// Who is asked for on a link: by ARP (RFC 826), or by NDP's neighbour solicitation (RFC 4861 §4.3).
struct LinkQuestion: Hashable {
    let target: IPAddress
    let asker: IPAddress
    let askerMAC: MACAddress

    /// Reads an Ethernet frame.
    /// - Returns: `nil` for all that is no question, or not from the link.
    init?(_ frame: [UInt8]) {
        guard frame.count >= 42 else { return nil }
        switch (frame[12], frame[13]) {
        case (0x08, 0x06):
            guard frame[14..<22].elementsEqual([0, 1, 8, 0, 6, 4, 0, 1]),
                let mac = MACAddress(bytes: frame[22..<28]), let asker = IPAddress(bytes: frame[28..<32]),
                let target = IPAddress(bytes: frame[38..<42])
            else { return nil }
            (self.target, self.asker, askerMAC) = (target, asker, mac)
        case (0x86, 0xDD):
            // Version 6, next header ICMPv6, hop limit 255, a solicitation of code 0 with its target.
            guard frame.count >= 78, frame[14] >> 4 == 6, frame[20] == 58, frame[21] == 255, frame[54] == 135,
                frame[55] == 0, let asker = IPAddress(bytes: frame[22..<38]),
                let target = IPAddress(bytes: frame[62..<78]), let mac = MACAddress(bytes: frame[6..<12])
            else { return nil }
            let length = Int(frame[18]) << 8 | Int(frame[19])
            guard length >= 24, frame.count >= 54 + length,
                Checksum.ofICMPv6(frame[22..<54], frame[54..<54 + length]) == 0
            else { return nil }
            (self.target, self.asker, askerMAC) = (target, asker, mac)
        default: return nil
        }
    }

    /// The frame that answers it.
    func answer(from mac: MACAddress) -> [UInt8] {
        switch target {
        case .v4: LinkFrames.arp(2, target, mac, to: asker, askerMAC, frameTo: askerMAC)
        case .v6:
            // Who looks whether the address is in use has none yet: all are told (RFC 4861 §7.2.4).
            asker.number == 0
                ? LinkFrames.advertisement(
                    target, mac, to: LinkFrames.allNodes, LinkFrames.allNodesMAC, isAnswer: false)
                : LinkFrames.advertisement(target, mac, to: asker, askerMAC, isAnswer: true)
        }
    }
}

enum LinkFrames {
    static let broadcast = MACAddress(number: 0xFFFF_FFFF_FFFF)
    static let allNodes = IPAddress.v6(0xFF02 << 112 | 1)
    static let allNodesMAC = MACAddress(number: 0x3333_0000_0001)

    /// Tells everybody on the link whose the address is: as a request and as a reply, since hosts heed the one or the other.
    static func gratuitous(_ address: IPAddress, _ mac: MACAddress) -> [[UInt8]] {
        guard address.family == .v4 else {
            return [advertisement(address, mac, to: allNodes, allNodesMAC, isAnswer: false)]
        }
        return [
            arp(1, address, mac, to: address, MACAddress(number: 0), frameTo: broadcast),
            arp(2, address, mac, to: address, broadcast, frameTo: broadcast),
        ]
    }

    /// - Parameter operation: 1 asks, 2 answers.
    static func arp(
        _ operation: UInt8, _ sender: IPAddress, _ senderMAC: MACAddress, to target: IPAddress, _ targetMAC: MACAddress,
        frameTo destination: MACAddress
    ) -> [UInt8] {
        destination.bytes + senderMAC.bytes + [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation] + senderMAC.bytes
            + sender.bytes + targetMAC.bytes + target.bytes
    }

    /// A neighbour advertisement that overrides what was known (RFC 4861 §4.4).
    static func advertisement(
        _ address: IPAddress, _ mac: MACAddress, to target: IPAddress, _ targetMAC: MACAddress, isAnswer: Bool
    ) -> [UInt8] {
        var message: [UInt8] = [136, 0, 0, 0, isAnswer ? 0x60 : 0x20, 0, 0, 0] + address.bytes + [2, 1] + mac.bytes
        let sum = Checksum.ofICMPv6((address.bytes + target.bytes)[...], message[...])
        (message[2], message[3]) = (UInt8(sum >> 8), UInt8(sum & 0xFF))
        let header: [UInt8] = [0x60, 0, 0, 0, 0, UInt8(message.count), 58, 255] + address.bytes + target.bytes
        return targetMAC.bytes + mac.bytes + [0x86, 0xDD] + header + message
    }

    /// The group in which an address is asked for (RFC 4291 §2.7.1).
    static func solicitedNode(_ address: IPAddress) -> IPAddress {
        .v6(0xFF02 << 112 | 0x1_FF00_0000 | address.number & 0xFF_FFFF)
    }
}

private enum Checksum {
    /// RFC 4443 §2.3; 0 over a message that has the right one.
    static func ofICMPv6(_ addresses: ArraySlice<UInt8>, _ message: ArraySlice<UInt8>) -> UInt16 {
        var sum = UInt32(message.count) + 58
        for part in [addresses, message] {
            for (offset, byte) in part.enumerated() { sum += offset % 2 == 0 ? UInt32(byte) << 8 : UInt32(byte) }
        }
        while sum >> 16 != 0 { sum = sum & 0xFFFF + sum >> 16 }
        return ~UInt16(sum)
    }
}
