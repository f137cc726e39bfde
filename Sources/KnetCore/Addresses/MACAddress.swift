/// An Ethernet address of 48 bits.
public struct MACAddress: Hashable, Sendable {
    /// The address in the lower 48 bits.
    public let number: UInt64

    public init(number: UInt64) { self.number = number & 0xFFFF_FFFF_FFFF }

    /// From 6 bytes; `nil` for any other count.
    public init?(bytes: some Collection<UInt8>) {
        guard bytes.count == 6 else { return nil }
        number = bytes.reduce(0) { ($0 << 8) | UInt64($1) }
    }

    /// A unicast, locally administered address (IEEE 802 bits 0 and 1 of the first byte) that is always the same for
    /// the same `name`, so that every node can compute it without being told.
    public init(derivedFrom name: String) {
        number = (StableHash.of(name) & 0xFCFF_FFFF_FFFF) | 0x0200_0000_0000
    }

    public var bytes: [UInt8] { (0..<6).map { UInt8(truncatingIfNeeded: number >> (8 * (5 - UInt64($0)))) } }

    /// Whether it can be an interface's own: neither a group address nor all zeros.
    public var isUnicast: Bool { number != 0 && number & 0x0100_0000_0000 == 0 }
}

extension MACAddress: LosslessStringConvertible, CustomStringConvertible {
    /// Parses six pairs of hexadecimal digits with colons between them.
    public init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        let bytes = parts.compactMap { $0.utf8.count == 2 ? UInt8($0, radix: 16) : nil }
        guard parts.count == 6, bytes.count == 6 else { return nil }
        self.init(bytes: bytes)
    }

    public var description: String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
    }
}

extension MACAddress: TextCodable {
    public static let title = "a MAC address"
}

/// FNV-1a of 64 bits with MurmurHash3's finalizer: the same on every machine and in every release, unlike `Hasher`.
/// Sources: http://www.isthe.com/chongo/tech/comp/fnv/, https://github.com/aappleby/smhasher
public enum StableHash {
    public static func of(_ text: String) -> UInt64 { of(Array(text.utf8)) }

    public static func of(_ bytes: [UInt8]) -> UInt64 {
        var hash = bytes.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
        // FNV spreads the last letters over few bits; names that differ in a final digit would be close.
        hash = (hash ^ (hash >> 33)) &* 0xFF51_AFD7_ED55_8CCD
        hash = (hash ^ (hash >> 33)) &* 0xC4CE_B9FE_1A85_EC53
        return hash ^ (hash >> 33)
    }
}
