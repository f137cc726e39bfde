import KnetCore

enum Direction: String, Hashable, Sendable, CaseIterable { case ingress, egress }

/// A NetworkPolicy or ClusterNetworkPolicy, checked and made ready.
struct Policy: Hashable, Sendable {
    enum Tier: Hashable, Sendable {
        /// With the priority: lesser ones come first.
        case admin(Int)
        case network
        case baseline(Int)
    }

    enum Action: String, Hashable, Sendable {
        case accept = "Accept"
        case deny = "Deny"
        case pass = "Pass"
    }

    struct Rule: Hashable, Sendable {
        /// `ingress[0]`, or the name that it was given.
        let title: String
        let action: Action
        let peers: Peers
        let ports: Ports
    }

    let key: ObjectKey
    let tier: Tier
    let subject: PodMatcher
    /// `nil` where the policy says nothing of that direction.
    let ingress: [Rule]?
    let egress: [Rule]?
    /// What is wrong with it, by field. What is wrong admits nothing.
    let problems: [String]

    func rules(_ direction: Direction) -> [Rule]? { direction == .ingress ? ingress : egress }

    /// `default/web`, or the name of a ClusterNetworkPolicy.
    var title: String { key.namespace.isEmpty ? key.name : "\(key.namespace)/\(key.name)" }

    var allRules: [Rule] { (ingress ?? []) + (egress ?? []) }
}

/// Who is at the other end.
struct Peers: Hashable, Sendable {
    /// Everybody.
    var isAnyone = false
    var pods: Set<PodMatcher> = []
    /// Disjoint ranges, sorted.
    var ranges: [AddressSpan] = []
    /// Domain names, `*.` before those below which all count.
    var domains: Set<String> = []

    static let anyone = Peers(isAnyone: true)
    static let nobody = Peers()

    var isNobody: Bool { !isAnyone && pods.isEmpty && ranges.isEmpty && domains.isEmpty }
}

/// At which ports.
struct Ports: Hashable, Sendable {
    /// All, and what has none.
    var isAny = false
    var spans: Set<PortSpan> = []
    var named: Set<NamedPort> = []

    static let any = Ports(isAny: true)
    var isNone: Bool { !isAny && spans.isEmpty && named.isEmpty }
}

struct PortSpan: Hashable, Sendable, Comparable {
    /// IANA's number.
    let transport: UInt8
    let first: UInt16
    let last: UInt16

    static func < (a: PortSpan, b: PortSpan) -> Bool {
        (a.transport, a.first, a.last) < (b.transport, b.first, b.last)
    }

    /// The same ports as spans that do not overlap, sorted.
    static func disjoint(_ spans: some Sequence<PortSpan>) -> [PortSpan] {
        spans.sorted().reduce(into: []) { merged, span in
            if let last = merged.last, last.transport == span.transport, Int(span.first) <= Int(last.last) + 1 {
                merged[merged.count - 1] = PortSpan(
                    transport: last.transport, first: last.first, last: max(last.last, span.last))
            } else {
                merged.append(span)
            }
        }
    }
}

/// The port of a pod's container that has the name.
struct NamedPort: Hashable, Sendable {
    let name: String
    /// `nil`: whichever it has.
    let transport: UInt8?
}

/// From the first to the last address, of one family.
struct AddressSpan: Hashable, Sendable, Comparable {
    let first: IPAddress
    let last: IPAddress

    init(first: IPAddress, last: IPAddress) {
        self.first = first
        self.last = last
    }

    init(_ block: CIDR) { self.init(first: block.base, last: block.last) }

    static func < (a: AddressSpan, b: AddressSpan) -> Bool { (a.first, a.last) < (b.first, b.last) }

    func contains(_ address: IPAddress) -> Bool {
        address.family == first.family && first <= address && address <= last
    }

    /// What is left of it without these.
    func subtracting(_ holes: [AddressSpan]) -> [AddressSpan] {
        var (rest, start): ([AddressSpan], UInt128) = ([], first.number)
        func address(_ number: UInt128) -> IPAddress { IPAddress(first.family, number: number) }
        for hole in holes.sorted() where hole.first.family == first.family && hole.last.number >= start {
            if hole.first.number > last.number { break }
            if hole.first.number > start {
                rest.append(AddressSpan(first: address(start), last: address(hole.first.number - 1)))
            }
            if hole.last.number >= last.number { return rest }
            start = hole.last.number + 1
        }
        rest.append(AddressSpan(first: address(start), last: last))
        return rest
    }

    /// The same addresses as spans that neither overlap nor touch, sorted.
    static func disjoint(_ spans: some Sequence<AddressSpan>) -> [AddressSpan] {
        spans.sorted().reduce(into: []) { merged, span in
            if let last = merged.last, last.first.family == span.first.family,
                span.first.number <= last.last.number || span.first.number == last.last.number + 1
            {
                if span.last > last.last { merged[merged.count - 1] = AddressSpan(first: last.first, last: span.last) }
            } else {
                merged.append(span)
            }
        }
    }
}
