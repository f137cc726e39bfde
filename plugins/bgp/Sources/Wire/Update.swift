import KnetCore

/// What both speakers have agreed on as far as UPDATE messages depend on it.
struct UpdateContext: Hashable, Sendable {
    /// AS numbers have 4 bytes (RFC 6793 §4).
    var hasFourOctetAS = true
    /// Routes of others are passed over.
    var families: Set<IPFamily> = [.v4, .v6]
    var isExternal: Bool
    /// The AS that a path has to begin with (RFC 4271 §6.3); `nil` where it is not asked.
    var firstAS: UInt32?
}

/// Routes told or taken back (RFC 4271 §4.3). What is withdrawn comes before what is announced.
struct Update: Hashable, Sendable {
    var withdrawn: [CIDR] = []
    var announced: [Announcement] = []
    /// Of what is announced.
    var attributes = PathAttributes()
    /// The family whose routes were all told (RFC 4724 §2).
    var endOfRIB: IPFamily?
}

/// Prefixes of one family with their next hop.
struct Announcement: Hashable, Sendable {
    let nextHop: NextHop
    var prefixes: [CIDR]
}

/// What an UPDATE message means. The strongest reaction has been applied to `update`.
struct UpdateReading: Hashable, Sendable {
    let update: Update
    /// In the message's order.
    let malformations: [Malformation]

    var reaction: Reaction? { malformations.lazy.map(\.reaction).max() }

    /// What is to be sent before the session is closed; `nil` where it goes on.
    var reset: Notification? { malformations.first { $0.reaction == .sessionReset }?.notification }
}
