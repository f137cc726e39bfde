extension Session {
    /// Asks for a connection; there is none of this side's.
    mutating func connect() {
        connectCount += 1
        let id = ConnectionID(side: .outgoing, number: connectCount)
        connections.append(SessionConnection(id: id, progress: .connecting, lastHeard: now))
        actions.append(.connect(id))
    }

    mutating func openedOutgoing(_ id: ConnectionID) {
        guard let index = index(id), connections[index].progress == .connecting else {
            // It was given up meanwhile.
            if index(id) == nil { actions.append(.close(id)) }
            return
        }
        greet(index)
    }

    mutating func openedIncoming(_ id: ConnectionID) {
        guard index(id) == nil else { return }
        guard mode == .running else { return refuse(id, .connectionRejected) }
        if let established {
            // A peer that has restarted may not know of its old connection (RFC 4724 §5); its OPEN decides.
            guard established.negotiated?.keptForPeer.isEmpty == false else { return refuse(id, .connectionCollision) }
        }
        for other in connections where other.id.side == .incoming && !other.isEstablished {
            drop(other.id, nil, sending: .cease(.connectionCollision))
        }
        connections.append(SessionConnection(id: id, progress: .openSent, lastHeard: now))
        greet(connections.count - 1)
    }

    private mutating func greet(_ index: Int) {
        let id = connections[index].id
        connections[index].progress = .openSent
        connections[index].lastHeard = now
        send(.open(settings.open(isRestarting: isRestarting)), id)
        set(.hold(id), after: SessionSettings.openHoldTime)
    }

    private mutating func refuse(_ id: ConnectionID, _ reason: Cease) {
        send(.notification(.cease(reason)), id)
        actions.append(.close(id))
    }

    /// The peer's OPEN is right. With two connections the one of the speaker with the higher identifier stays, with
    /// equal ones that of the higher AS (RFC 4271 §6.8, RFC 6286 §2.3).
    mutating func confirm(_ id: ConnectionID, _ negotiated: Negotiated) {
        if let established { drop(established.id, .replaced) }
        let isHigher =
            (settings.identifier, settings.localAS) > (negotiated.peerIdentifier, negotiated.peerAS)
        let kept: ConnectionID.Side = isHigher ? .outgoing : .incoming
        for other in connections where other.id != id && other.negotiated != nil {
            let loser = other.id.side == kept ? id : other.id
            drop(loser, nil, sending: .cease(.connectionCollision))
        }
        guard let index = index(id) else { return }
        connections[index].progress = .openConfirm(negotiated)
        if let holdTime = negotiated.holdTime { set(.hold(id), after: holdTime) } else { cancel(.hold(id)) }
        sendKeepalive(id)
    }

    mutating func establish(_ id: ConnectionID, _ negotiated: Negotiated) {
        for other in connections where other.id != id {
            drop(other.id, nil, sending: other.progress == .connecting ? nil : .cease(.connectionCollision))
        }
        guard let index = index(id) else { return }
        connections[index].progress = .established(negotiated)
        connectFailures = 0
        isRestarting = false
        actions.append(.up(negotiated, id))
        let gone = stale.subtracting(negotiated.forwardedByPeer)
        removeStale(gone)
        if !stale.isEmpty { set(.stale, after: settings.staleLimit) }
    }
}
