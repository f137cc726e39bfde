/// The addresses that pods can have out of one node's range.
public struct AddressRange: Hashable, Sendable {
    public let cidr: CIDR
    /// The first address after the range's own, which is the node's end of the overlay (VTEP).
    public let first: IPAddress
    /// The last one; IPv4's broadcast address is left out.
    public let last: IPAddress

    public init(_ cidr: CIDR) {
        self.cidr = cidr
        first = IPAddress(cidr.family, number: cidr.base.number + 1)
        last = IPAddress(cidr.family, number: cidr.last.number - (cidr.family == .v4 ? 1 : 0))
    }

    /// How many there are; `Int.max` stands for more than can be counted.
    public var count: Int { last < first ? 0 : Int(clamping: last.number - first.number + 1) }

    /// The longest prefix that leaves room for pods: 6 addresses of IPv4, 15 of IPv6.
    public static func longestPrefix(_ family: IPFamily) -> Int { family == .v4 ? 29 : 124 }
}

/// A range without a free address.
public struct RangeExhausted: Error, CustomStringConvertible {
    public let cidr: CIDR
    /// Addresses in use.
    public let inUse: Int
    public var description: String {
        "no free address in \(cidr): all \(inUse) are in use; `knetd status` shows by whom. "
            + "Give this node a larger range or remove pods"
    }
}
