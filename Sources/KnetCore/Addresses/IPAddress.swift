import Glibc

/// An address family that a pod or a node can have.
public enum IPFamily: UInt8, Hashable, Sendable, CaseIterable, Comparable, CustomStringConvertible {
    case v4 = 4
    case v6 = 6

    /// The socket family: `AF_INET` or `AF_INET6`.
    public var socketFamily: UInt8 { UInt8(self == .v4 ? AF_INET : AF_INET6) }

    /// Bits in an address: 32 or 128.
    public var bits: Int { self == .v4 ? 32 : 128 }

    public init?(socketFamily: UInt8) {
        switch Int32(socketFamily) {
        case AF_INET: self = .v4
        case AF_INET6: self = .v6
        default: return nil
        }
    }

    public var description: String { self == .v4 ? "IPv4" : "IPv6" }

    public static func < (a: IPFamily, b: IPFamily) -> Bool { a.rawValue < b.rawValue }
}

/// An IPv4 or IPv6 address, held as a number in host byte order.
public enum IPAddress: Hashable, Sendable {
    case v4(UInt32)
    case v6(UInt128)

    /// An address from its number; for IPv4 the upper 96 bits are dropped.
    public init(_ family: IPFamily, number: UInt128) {
        self = family == .v4 ? .v4(UInt32(truncatingIfNeeded: number)) : .v6(number)
    }

    /// An address from 4 or 16 bytes in network order; `nil` for any other count.
    public init?(bytes: some Collection<UInt8>) {
        switch bytes.count {
        case 4: self = .v4(bytes.reduce(0) { ($0 << 8) | UInt32($1) })
        case 16: self = .v6(bytes.reduce(0) { ($0 << 8) | UInt128($1) })
        default: return nil
        }
    }

    public var family: IPFamily {
        switch self {
        case .v4: .v4
        case .v6: .v6
        }
    }

    /// The address as a number in host byte order.
    public var number: UInt128 {
        switch self {
        case .v4(let value): UInt128(value)
        case .v6(let value): value
        }
    }

    /// 4 or 16 bytes in network order.
    public var bytes: [UInt8] {
        let count = family.bits / 8
        return (0..<count).map { UInt8(truncatingIfNeeded: number >> (8 * UInt128(count - 1 - $0))) }
    }

    /// Whether the address is of use only on one link: 169.254.0.0/16 or fe80::/10.
    public var isLinkLocal: Bool {
        switch self {
        case .v4(let value): value >> 16 == 0xA9FE
        case .v6(let value): value >> 118 == 0xFE80 >> 6
        }
    }

    /// Whether the address is 127.0.0.0/8 or ::1.
    public var isLoopback: Bool {
        switch self {
        case .v4(let value): value >> 24 == 127
        case .v6(let value): value == 1
        }
    }
}

extension IPAddress: LosslessStringConvertible, CustomStringConvertible {
    /// Parses dotted-quad IPv4 or RFC 4291 IPv6 text. Neither leading zeros, zones nor prefixes are accepted.
    public init?(_ text: some StringProtocol) {
        var four = in_addr()
        var six = in6_addr()
        let text = String(text)
        if inet_pton(AF_INET, text, &four) == 1 {
            self = .v4(UInt32(bigEndian: four.s_addr))
        } else if inet_pton(AF_INET6, text, &six) == 1 {
            guard let parsed = withUnsafeBytes(of: &six, { IPAddress(bytes: $0) }) else { return nil }
            self = parsed
        } else {
            return nil
        }
    }

    /// Dotted quad, or RFC 5952 text.
    public var description: String {
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        var octets = bytes
        _ = inet_ntop(Int32(family.socketFamily), &octets, &text, socklen_t(text.count))
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}

extension IPAddress: Comparable {
    /// IPv4 before IPv6, then by number.
    public static func < (a: IPAddress, b: IPAddress) -> Bool { (a.family, a.number) < (b.family, b.number) }
}

extension IPAddress: TextCodable {
    public static let title = "an IP address"
}
