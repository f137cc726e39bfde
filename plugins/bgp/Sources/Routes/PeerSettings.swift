import KnetCore

/// Which peer is meant: where it is.
struct PeerKey: Hashable, Sendable, Comparable, CustomStringConvertible {
    let address: IPAddress

    static func < (one: PeerKey, other: PeerKey) -> Bool { one.address < other.address }
    var description: String { address.description }
}

/// What a peer is to the router.
struct PeerSettings: Hashable, Sendable {
    var session: SessionSettings
    /// What may be learnt from it.
    var imports: [PrefixFilter]
    /// More routes than these end the session.
    var routeLimit: Int
    /// How often the own AS may be in a path.
    var allowedOwnAS = 0
    /// Whether routes of internal peers are passed on to it, and its to them (RFC 4456).
    var isClient = false
    /// The own address in each family, as next hop where the connection's own cannot be it.
    var nextHops: [IPFamily: IPAddress]

    var isExternal: Bool { session.peerAS.map { $0 != session.localAS } ?? true }
}

/// Prefixes within one, of certain lengths.
struct PrefixFilter: Hashable, Sendable {
    let cidr: CIDR
    let lengths: ClosedRange<Int>

    init(_ cidr: CIDR, lengths: ClosedRange<Int>? = nil) {
        self.cidr = cidr
        self.lengths = lengths ?? cidr.prefixLength...cidr.family.bits
    }

    func admits(_ prefix: CIDR) -> Bool { cidr.contains(prefix) && lengths.contains(prefix.prefixLength) }
}

/// What a route of this node is told with.
struct LocalRoute: Hashable, Sendable {
    var communities: [Community] = []
    var largeCommunities: [LargeCommunity] = []
    /// Towards internal peers.
    var localPreference: UInt32 = 100
    /// Towards external ones.
    var med: UInt32?
    /// So many times more the own AS stands in the path, towards external ones.
    var prepend = 0
}
