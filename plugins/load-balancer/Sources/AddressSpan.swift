public import KnetCore

/// Addresses from one to another, both among them: `192.0.2.10-192.0.2.50`, or a CIDR, or one address.
public struct AddressSpan: Hashable, Sendable {
    public let first: IPAddress
    public let last: IPAddress

    /// - Returns: `nil` where they are of two families, or the last is before the first.
    public init?(_ first: IPAddress, _ last: IPAddress) {
        guard first.family == last.family, first <= last else { return nil }
        self.first = first
        self.last = last
    }

    init(_ cidr: CIDR) {
        first = cidr.base
        last = cidr.last
    }

    public var family: IPFamily { first.family }

    /// How many there are; `Int.max` stands for more than can be counted.
    var count: Int {
        let more = last.number - first.number
        return more >= UInt128(Int.max) ? Int.max : Int(more) + 1
    }

    func contains(_ address: IPAddress) -> Bool { address.family == family && (first...last).contains(address) }

    func overlaps(_ other: AddressSpan) -> Bool {
        family == other.family && first <= other.last && other.first <= last
    }
}

extension AddressSpan: TextCodable {
    public static let title =
        "a CIDR such as \"192.0.2.0/28\", a range such as \"192.0.2.10-192.0.2.50\", or an address"

    public init?(_ text: String) {
        let ends = text.split(separator: "-", omittingEmptySubsequences: false).map { end in
            IPAddress(String(end.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed()))
        }
        if let cidr = CIDR(text) {
            self.init(cidr)
        } else if ends.count <= 2, let first = ends[0], let last = ends[ends.count - 1] {
            self.init(first, last)
        } else {
            return nil
        }
    }

    public var description: String { first == last ? "\(first)" : "\(first)-\(last)" }
}
