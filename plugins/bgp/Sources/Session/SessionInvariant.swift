extension Session {
    /// What is not as it has to be after every event; `nil` where all is well.
    var brokenInvariant: String? {
        rules.first { !$0.holds }.map { "\($0.rule): \(mode), \(connections), \(timers), \(stale)" }
    }

    private var rules: [(rule: String, holds: Bool)] {
        let outgoing = connections.filter { $0.id.side == .outgoing }
        let established = connections.filter(\.isEstablished)
        let confirmed = connections.filter { $0.negotiated != nil }
        return [
            ("only a running session has connections", mode == .running || connections.isEmpty),
            ("ids differ", Set(connections.map(\.id)).count == connections.count),
            ("two connections at most", connections.count <= 2),
            ("one connection of each side before one is established", !established.isEmpty || outgoing.count <= 1),
            (
                "one incoming connection beside another at most",
                connections.count - outgoing.count <= 1 + established.count
            ),
            ("whoever is passive does not connect", settings.connects || outgoing.isEmpty),
            (
                "only the peer makes connections",
                connections.allSatisfy { $0.progress != .connecting || $0.id.side == .outgoing }
            ),
            ("one connection has passed the collision", confirmed.count <= 1),
            ("who comes beside an established connection has restarted", established.isEmpty || isChallenged),
            ("the timer of an idle session", timers.contains(.idleHold) == (mode == .idleHold)),
            ("the timer of attempts", timers.contains(.connectRetry) == wantsConnectRetry),
            ("the timer of routes that are kept", timers.contains(.stale) == !stale.isEmpty),
            ("nothing is kept for whoever is stopped", mode != .stopped || stale.isEmpty),
            ("timers of connections", connectionTimers == timers.subtracting([.idleHold, .connectRetry, .stale])),
            ("no action is left behind", actions.isEmpty),
        ]
    }

    /// Whether all others beside the established connection are such as may be there.
    private var isChallenged: Bool {
        connections.allSatisfy { connection in
            connection.isEstablished
                || connection.progress == .openSent && connection.id.side == .incoming
                    && established?.negotiated?.keptForPeer.isEmpty == false
        }
    }

    private var connectionTimers: Set<SessionTimer> {
        var timers: Set<SessionTimer> = []
        for connection in connections where connection.holdTime != nil {
            timers.insert(.hold(connection.id))
            if connection.negotiated != nil { timers.insert(.keepalive(connection.id)) }
        }
        return timers
    }
}
