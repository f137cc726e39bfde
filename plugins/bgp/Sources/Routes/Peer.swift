import KnetCore

/// A peer as the router has it.
struct Peer: Sendable {
    let settings: PeerSettings
    var session: Session
    /// The connection over which routes are told, and what was agreed on.
    var established: (connection: ConnectionID, negotiated: Negotiated)?
    /// This node's address on a connection.
    var ownAddresses: [ConnectionID: IPAddress] = [:]
    /// What it tells that may be used.
    var learnt: [CIDR: LearntRoute] = [:]
    /// How many of its routes the filter keeps out, since the session began.
    var filtered = 0
    /// What it was told.
    var advertised: [CIDR: Advertisement] = [:]
    /// Families of which it has told everything.
    var toldAll: Set<IPFamily> = []
    /// How often it asked to be told all again, since it is a peer.
    var refreshes = 0
    /// Malformed routes it told, and the last one's fault.
    var malformed = 0
    var lastFault: String?

    init(_ settings: PeerSettings, now: Duration) {
        self.settings = settings
        session = Session(settings.session, now: now)
    }

    /// Whether it is of another AS: as it said itself, where any may speak.
    var isExternal: Bool { established?.negotiated.context.isExternal ?? settings.isExternal }

    /// With what the router tells of itself there; `nil` where it has no address of the family.
    func nextHop(_ family: IPFamily) -> NextHop? {
        if let established, let own = ownAddresses[established.connection], own.family == family, !own.isLinkLocal {
            return NextHop(own)
        }
        return settings.nextHops[family].map { NextHop($0) }
    }
}

/// A route as it is told.
struct Advertisement: Hashable, Sendable {
    let nextHop: NextHop
    let attributes: PathAttributes
}

/// What the router wants done, in this order.
enum RouterAction: Sendable {
    case connect(PeerKey, ConnectionID)
    case close(PeerKey, ConnectionID)
    case send(PeerKey, ConnectionID, [UInt8])
    case setTimer(PeerKey, SessionTimer, after: Duration)
    case cancelTimer(PeerKey, SessionTimer)
    /// Packets to these prefixes go to these gateways; to none: the route is gone.
    case routes([CIDR: Set<IPAddress>])
    case up(PeerKey)
    case down(PeerKey, DownReason)
    /// More routes than allowed; the session is ended.
    case tooManyRoutes(PeerKey)
    /// A dynamic neighbour stayed away.
    case finished(PeerKey)
}
