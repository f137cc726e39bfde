import KnetCore

extension Session {
    mutating func receive(_ frame: Frame, _ id: ConnectionID) {
        guard let index = index(id), connections[index].progress != .connecting else { return }
        counters.countReceived(frame.type)
        connections[index].lastHeard = now
        switch (connections[index].progress, frame.type) {
        case (_, .notification): receiveNotification(.read(frame), id)
        case (.openSent, .open): receiveOpen(frame, id)
        case (.openConfirm(let negotiated), .keepalive): establish(id, negotiated)
        case (.established, .keepalive): break
        case (.established(let negotiated), .update): receiveUpdate(frame, id, negotiated)
        case (.established(let negotiated), .routeRefresh): receiveRefresh(frame, negotiated)
        default: fail(id, sending: connections[index].unexpected)
        }
    }

    private mutating func receiveOpen(_ frame: Frame, _ id: ConnectionID) {
        do throws(Notification) {
            confirm(id, try Negotiated(settings, try Open.read(frame), isRestarting: isRestarting))
        } catch {
            fail(id, sending: error)
        }
    }

    private mutating func receiveUpdate(_ frame: Frame, _ id: ConnectionID, _ negotiated: Negotiated) {
        let reading = Update.read(frame, negotiated.context)
        actions.append(.update(reading))
        if let reset = reading.reset { return fail(id, sending: reset) }
        if let family = reading.update.endOfRIB { removeStale(stale.intersection([family])) }
    }

    private mutating func receiveRefresh(_ frame: Frame, _ negotiated: Negotiated) {
        guard let refresh = RouteRefresh.read(frame), refresh.subtype == 0, let family = refresh.family.unicast,
            negotiated.context.families.contains(family)
        else { return }
        actions.append(.refresh(family))
    }
}
