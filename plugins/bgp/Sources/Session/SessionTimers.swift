extension Session {
    mutating func set(_ timer: SessionTimer, after wait: Duration) {
        timers.insert(timer)
        actions.append(.setTimer(timer, after: wait))
    }

    mutating func cancel(_ timer: SessionTimer) {
        if timers.remove(timer) != nil { actions.append(.cancelTimer(timer)) }
    }

    mutating func expire(_ timer: SessionTimer) {
        switch timer {
        case .connectRetry: retryConnect()
        case .idleHold:
            mode = .running
            if settings.connects { connect() }
        case .hold(let id): expireHold(id)
        case .keepalive(let id): sendKeepalive(id)
        case .stale:
            actions.append(.removeStale(stale))
            stale = []
        }
    }

    private mutating func expireHold(_ id: ConnectionID) {
        guard let index = index(id), let holdTime = connections[index].holdTime else { return }
        // The timer runs on while messages come; so it is not set for each of them.
        let left = connections[index].lastHeard + holdTime - now
        if left > .zero {
            set(.hold(id), after: left)
        } else {
            fail(id, sending: .holdTimerExpired)
        }
    }

    mutating func sendKeepalive(_ id: ConnectionID) {
        guard let index = index(id) else { return }
        send(.keepalive, id)
        if let wait = connections[index].negotiated?.keepalive {
            set(.keepalive(id), after: wait.jittered(random))
        }
    }

    private mutating func retryConnect() {
        if settings.isDynamic {
            // Routes are kept for a while longer than their peer was there.
            guard stale.isEmpty else { return }
            mode = .stopped
            actions.append(.finished)
            return
        }
        for connection in connections where connection.progress == .connecting {
            drop(connection.id, .unreachable("no answer in time"))
            connectFailures += 1
        }
        if connections.isEmpty { connect() }
    }

    /// Whether an attempt to connect is running or due, or a dynamic neighbour is waited for.
    var wantsConnectRetry: Bool {
        guard mode == .running else { return false }
        return connections.isEmpty
            ? settings.connects || settings.isDynamic : connections.contains { $0.progress == .connecting }
    }

    /// The last step for every event.
    mutating func keepTrying() {
        guard wantsConnectRetry else { return cancel(.connectRetry) }
        guard !timers.contains(.connectRetry) else { return }
        set(
            .connectRetry,
            after: settings.isDynamic
                ? settings.idleHold.limit : settings.connectRetry.wait(after: connectFailures, random: random))
    }
}
