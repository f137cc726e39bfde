import KnetCore
import Testing

@testable import BGPPlugin

/// One session in hand, with what its peer would say.
struct Peering {
    var session: Session
    var now = Duration.zero
    /// What the peer says of itself.
    var peer: Open

    static let outgoing = ConnectionID(side: .outgoing, number: 1)
    static let incoming = ConnectionID(side: .incoming, number: 1)

    init(identifier: UInt32 = 1, change: (inout SessionSettings) -> Void = { _ in }) {
        var settings = SessionSettings(localAS: 64_512, identifier: identifier, peerAS: 64_513)
        change(&settings)
        session = Session(settings, now: .zero)
        var other = settings
        (other.localAS, other.identifier) = (64_513, 5)
        peer = other.open(isRestarting: false)
    }

    @discardableResult
    mutating func on(_ event: SessionEvent, after wait: Duration = .zero) -> [SessionAction] {
        now += wait
        let actions = session.handle(event, now: now, random: 0.999_999)
        #expect(session.brokenInvariant == nil)
        return actions
    }

    @discardableResult
    mutating func say(_ bytes: [UInt8], _ id: ConnectionID, after wait: Duration = .zero) throws -> [SessionAction] {
        on(.received(try frame(bytes), id), after: wait)
    }

    @discardableResult
    mutating func say(_ message: Message, _ id: ConnectionID, after wait: Duration = .zero) throws -> [SessionAction] {
        try say(message.bytes, id, after: wait)
    }

    /// Brings an opened connection up.
    @discardableResult
    mutating func establish(_ id: ConnectionID) throws -> [SessionAction] {
        on(.opened(id))
        try say(.open(peer), id)
        return try say(.keepalive, id)
    }

    static func established(change: (inout SessionSettings) -> Void = { _ in }) throws -> Peering {
        var peering = Peering(change: change)
        peering.on(.start(isRestarting: false))
        try peering.establish(outgoing)
        #expect(peering.session.state == .established)
        return peering
    }

    mutating func without(_ drop: (Capability) -> Bool) { peer.capabilities.removeAll(where: drop) }
}

extension [SessionAction] {
    var notifications: [Notification] {
        compactMap { if case .send(.notification(let notification), _) = $0 { notification } else { nil } }
    }

    var negotiated: Negotiated? {
        for case .up(let negotiated, _) in self { return negotiated }
        return nil
    }

    func wait(_ timer: SessionTimer) -> Duration? {
        for case .setTimer(timer, let wait) in self { return wait }
        return nil
    }
}

extension Capability {
    var isGracefulRestart: Bool { if case .gracefulRestart = self { true } else { false } }
}
