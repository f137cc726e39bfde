/// A block of addresses: `10.42.0.0/16`, `fd42::/48`. The host bits of `base` are zero.
public struct CIDR: Hashable, Sendable {
    public let base: IPAddress
    /// 0…32 or 0…128.
    public let prefixLength: Int

    /// The block of `prefixLength` bits that holds `address`.
    public init(containing address: IPAddress, prefixLength: Int) {
        precondition((0...address.family.bits).contains(prefixLength))
        self.prefixLength = prefixLength
        let hostBits = UInt128(address.family.bits - prefixLength)
        let number = hostBits == 128 ? 0 : (address.number >> hostBits) << hostBits
        base = IPAddress(address.family, number: number)
    }

    /// The block of exactly one address: /32 or /128.
    public init(host address: IPAddress) { self.init(containing: address, prefixLength: address.family.bits) }

    public var family: IPFamily { base.family }

    /// The highest address of the block.
    public var last: IPAddress { IPAddress(family, number: base.number | hostMask) }

    public func contains(_ address: IPAddress) -> Bool {
        address.family == family && (address.number & ~hostMask) == base.number
    }

    public func contains(_ other: CIDR) -> Bool {
        other.prefixLength >= prefixLength && contains(other.base)
    }

    public func overlaps(_ other: CIDR) -> Bool { contains(other) || other.contains(self) }

    /// The `index`-th block of `length` bits inside this one; `nil` where there is none.
    public func subnet(_ index: UInt64, prefixLength length: Int) -> CIDR? {
        guard length >= prefixLength, length <= family.bits else { return nil }
        let room = length - prefixLength
        guard room >= 64 || index < 1 << UInt64(room) else { return nil }
        let number = base.number | (UInt128(index) << UInt128(family.bits - length))
        return CIDR(containing: IPAddress(family, number: number), prefixLength: length)
    }

    private var hostMask: UInt128 {
        let bits = family.bits - prefixLength
        return bits == 128 ? UInt128.max : (1 << UInt128(bits)) - 1
    }
}

extension CIDR {
    /// What other purpose a part of the block has (RFC 6890); `nil` where it is free for hosts.
    public var reservedFor: String? {
        Self.reserved.first { $0.block.overlaps(self) }.map { "\($0.block) (\($0.purpose))" }
    }

    /// Blocks that no host has an address of.
    public static let reserved: [(block: CIDR, purpose: String)] = [
        ("0.0.0.0/8", "this network"), ("127.0.0.0/8", "loopback"), ("169.254.0.0/16", "link-local addresses"),
        ("224.0.0.0/3", "multicast and reserved addresses"), ("::/8", "loopback and mapped addresses"),
        ("fe80::/10", "link-local addresses"), ("ff00::/8", "multicast"),
    ].compactMap { text, purpose in CIDR(text).map { ($0, purpose) } }
}

extension CIDR: LosslessStringConvertible, CustomStringConvertible {
    /// Why a text is not a CIDR.
    public enum Fault: Error, Equatable, CustomStringConvertible {
        case noPrefixLength(String)
        case notAnAddress(String)
        case prefixLengthOutOfRange(String, allowed: ClosedRange<Int>)
        case hostBitsSet(String, meant: CIDR)

        public var description: String {
            switch self {
            case .noPrefixLength(let text): "\"\(text)\" has no prefix length (such as /16)"
            case .notAnAddress(let text): "\"\(text)\" is not an IP address"
            case .prefixLengthOutOfRange(let text, let allowed):
                "prefix length \"\(text)\" is not in \(allowed.lowerBound)…\(allowed.upperBound)"
            case .hostBitsSet(let text, let meant): "\"\(text)\" has host bits set; did you mean \(meant)?"
            }
        }
    }

    /// Parses `address/length` and says what is wrong where it does not.
    public static func parse(_ text: some StringProtocol) throws(Fault) -> CIDR {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2 else { throw .noPrefixLength(String(text)) }
        guard let address = IPAddress(parts[0]) else { throw .notAnAddress(String(parts[0])) }
        let allowed = 0...address.family.bits
        guard parts[1].allSatisfy(\.isASCII), let length = UInt8(parts[1]), String(length) == parts[1],
            allowed.contains(Int(length))
        else { throw .prefixLengthOutOfRange(String(parts[1]), allowed: allowed) }
        let cidr = CIDR(containing: address, prefixLength: Int(length))
        guard cidr.base == address else { throw .hostBitsSet(String(text), meant: cidr) }
        return cidr
    }

    public init?(_ text: String) {
        guard let cidr = try? CIDR.parse(text) else { return nil }
        self = cidr
    }

    public var description: String { "\(base)/\(prefixLength)" }
}

extension CIDR: Comparable {
    public static func < (a: CIDR, b: CIDR) -> Bool { (a.base, a.prefixLength) < (b.base, b.prefixLength) }
}

extension CIDR: Codable {
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        do {
            self = try CIDR.parse(try container.decode(String.self))
        } catch let fault as Fault {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: fault.description)
        }
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}
