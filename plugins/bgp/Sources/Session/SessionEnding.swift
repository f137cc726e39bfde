import KnetCore

extension Session {
    /// Ends a connection with an error of the peer's.
    mutating func fail(_ id: ConnectionID, sending notification: Notification) {
        guard let index = index(id), connections[index].progress != .connecting else { return }
        drop(id, .sent(notification), sending: notification)
        holdAfterError()
    }

    /// The peer has said why it ends the connection.
    mutating func receiveNotification(_ notification: Notification, _ id: ConnectionID) {
        let wasEstablished = index(id).map { connections[$0].isEstablished } ?? false
        drop(id, .received(notification))
        switch notification.cease {
        case .connectionCollision where !wasEstablished, .connectionRejected where !wasEstablished:
            connectFailures += 1
        default: holdAfterError()
        }
    }

    /// A connection is gone, or was never made.
    mutating func lose(_ id: ConnectionID, _ reason: DownReason) {
        guard let index = index(id) else { return }
        let progress = connections[index].progress
        let isStable = state == .established && now - since >= settings.idleHold.limit
        drop(id, reason, isClosed: true)
        switch progress {
        case .connecting:
            cancel(.connectRetry)
            connectFailures += 1
        case .openSent: connectFailures += 1
        case .established where isStable: break
        case .openConfirm, .established: holdAfterError()
        }
    }

    /// Forgets a connection.
    /// - Parameters:
    ///   - reason: `nil` where it is none of interest.
    ///   - isClosed: whether there is nothing to close any more.
    mutating func drop(
        _ id: ConnectionID, _ reason: DownReason?, sending notification: Notification? = nil, isClosed: Bool = false
    ) {
        guard let index = index(id) else { return }
        let connection = connections.remove(at: index)
        cancel(.hold(id))
        cancel(.keepalive(id))
        if let notification { send(.notification(notification), id) }
        if !isClosed { actions.append(.close(id)) }
        guard let reason else { return }
        lastDown = reason
        lastDownAt = now
        if case .established(let negotiated) = connection.progress { goDown(negotiated, reason) }
    }

    private mutating func goDown(_ negotiated: Negotiated, _ reason: DownReason) {
        flaps += 1
        if now - since >= settings.idleHold.limit { errors = 0 }
        // Routes that were kept once are not kept a second time (RFC 4724 §4.2).
        removeStale(stale)
        let kept = negotiated.kept(after: reason)
        actions.append(.down(reason, kept: kept))
        stale = kept
        if !kept.isEmpty { set(.stale, after: negotiated.peerRestartTime) }
    }

    mutating func removeStale(_ families: Set<IPFamily>) {
        guard !families.isEmpty else { return }
        actions.append(.removeStale(families))
        stale.subtract(families)
        if stale.isEmpty { cancel(.stale) }
    }

    /// Waits before the next attempt, unless another connection has come further than an attempt.
    private mutating func holdAfterError() {
        guard connections.allSatisfy({ $0.progress == .connecting }) else { return }
        for connection in connections { drop(connection.id, nil) }
        errors += 1
        mode = .idleHold
        set(.idleHold, after: settings.idleHold.wait(after: errors, random: random))
    }
}
