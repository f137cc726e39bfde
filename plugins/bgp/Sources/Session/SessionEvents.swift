import KnetCore

/// A connection between both speakers, from the attempt to its end. Ids are not used again.
struct ConnectionID: Hashable, Sendable {
    /// Who opened it.
    enum Side: Sendable {
        /// Numbered by the session.
        case outgoing
        /// Numbered by whoever accepts.
        case incoming
    }

    let side: Side
    let number: Int
}

enum SessionTimer: Hashable, Sendable {
    case connectRetry
    case idleHold
    case hold(ConnectionID)
    case keepalive(ConnectionID)
    /// For how long a peer's routes are kept without the peer.
    case stale
}

/// What happens to a session.
enum SessionEvent: Sendable {
    /// - Parameter isRestarting: whether the peer may have kept this side's routes.
    case start(isRestarting: Bool)
    case stop(StopReason)
    case timer(SessionTimer)
    /// The connection that was asked for is there, or the peer has made one.
    case opened(ConnectionID)
    /// The connection that was asked for could not be made.
    case failed(ConnectionID, String)
    /// The peer or the network has closed it.
    case closed(ConnectionID)
    case received(Frame, ConnectionID)
    /// Bytes that are no messages, with what `MessageFrames` says to that.
    case malformed(Notification, ConnectionID)
    /// The peer is to tell a family's routes again.
    case askRefresh(IPFamily)
    /// So many UPDATE messages were sent past the session.
    case sentUpdates(Int)
}

/// What is to be done, in this order.
enum SessionAction: Hashable, Sendable {
    case connect(ConnectionID)
    /// After what was sent before.
    case close(ConnectionID)
    case send(Message, ConnectionID)
    /// Instead of an earlier one of the same kind.
    case setTimer(SessionTimer, after: Duration)
    case cancelTimer(SessionTimer)
    /// Routes can be told over this connection.
    case up(Negotiated, ConnectionID)
    /// The peer's routes of these families stay until `removeStale` or until they are told again; others go now.
    case down(DownReason, kept: Set<IPFamily>)
    /// Also one that ends the session: its malformations are for the log.
    case update(UpdateReading)
    /// The peer wants to be told a family's routes again.
    case refresh(IPFamily)
    /// Routes of these families that were kept and not told again go now.
    case removeStale(Set<IPFamily>)
    /// A dynamic neighbour has stayed away; the session is stopped.
    case finished
}

/// Why a session is stopped.
enum StopReason: Hashable, Sendable {
    /// The daemon will be back at once: nothing is said, so that the peer keeps the routes (RFC 4724 §4).
    case restart
    case cease(Cease, text: String = "")
}

/// Why a connection or a session ended.
enum DownReason: Hashable, Sendable, CustomStringConvertible {
    case stopped(StopReason)
    case received(Notification)
    case sent(Notification)
    /// By the peer or the network, without a word.
    case closed
    case unreachable(String)
    /// The peer has restarted and connected anew (RFC 4724 §5).
    case replaced

    var description: String {
        switch self {
        case .stopped(.restart): "stopped for a restart"
        case .stopped(.cease(let reason, let text)): "stopped: \(Notification.cease(reason, text: text))"
        case .received(let notification): "received: \(notification)"
        case .sent(let notification): "sent: \(notification)"
        case .closed: "connection closed"
        case .unreachable(let text): "unreachable: \(text)"
        case .replaced: "the peer has connected anew"
        }
    }
}
