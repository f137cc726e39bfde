import KnetCore

/// What two OPEN messages agree on.
struct Negotiated: Hashable, Sendable {
    let peerAS: UInt32
    let peerIdentifier: UInt32
    /// `nil` where connections are not watched.
    let holdTime: Duration?
    /// AS numbers, families, and whether the peer is external.
    let context: UpdateContext
    let hasRouteRefresh: Bool
    /// Whether notifications but a hard reset end the session gracefully (RFC 8538 §2).
    let coversNotifications: Bool
    /// This side has restarted; routes are told again.
    let isRestarting: Bool
    let peerIsRestarting: Bool
    /// What the peer keeps while this side is away, for `SessionSettings.Restart.time`.
    let keptByPeer: Set<IPFamily>
    /// What is kept while the peer is away.
    let keptForPeer: Set<IPFamily>
    let peerRestartTime: Duration
    /// Families whose packets the peer forwarded during its last restart.
    let forwardedByPeer: Set<IPFamily>

    var keepalive: Duration? { holdTime.map { $0 / 3 } }

    /// - Throws: what is to be sent to the peer (RFC 4271 §6.2, RFC 6286 §2.2, RFC 7607, RFC 5492 §3).
    init(_ settings: SessionSettings, _ open: Open, isRestarting: Bool) throws(Notification) {
        peerAS = open.autonomousSystem
        guard peerAS != 0, settings.peerAS == nil || settings.peerAS == peerAS else { throw .badPeerAS }
        let isExternal = peerAS != settings.localAS
        peerIdentifier = open.identifier
        guard peerIdentifier != 0, isExternal || peerIdentifier != settings.identifier else { throw .badIdentifier }
        guard open.holdTime == 0 || open.holdTime >= 3 else { throw .unacceptableHoldTime }
        let seconds = min(open.holdTime, settings.holdTime)
        holdTime = seconds == 0 ? nil : .seconds(seconds)
        let families = settings.families.intersection(open.families.compactMap(\.unicast))
        guard !families.isEmpty else {
            throw .unsupportedCapability(settings.families.sorted().map { .multiprotocol(AddressFamily($0)) })
        }
        context = UpdateContext(
            hasFourOctetAS: open.fourOctetAS != nil, families: families, isExternal: isExternal,
            firstAS: settings.checksFirstAS && isExternal ? peerAS : nil)
        hasRouteRefresh = open.capabilities.contains(.routeRefresh)
        let peer = settings.gracefulRestart == nil ? nil : open.gracefulRestart
        coversNotifications = peer?.coversNotifications ?? false
        self.isRestarting = isRestarting
        peerIsRestarting = peer?.isRestarting ?? false
        keptByPeer = peer == nil ? [] : families
        let kept = peer?.families ?? []
        keptForPeer = families.intersection(kept.compactMap(\.family.unicast))
        forwardedByPeer = families.intersection(kept.filter(\.keptForwarding).compactMap(\.family.unicast))
        peerRestartTime = .seconds(peer?.time ?? 0)
    }

    /// The families whose routes are kept after an end of this kind (RFC 4724 §4.2, RFC 8538 §4).
    func kept(after reason: DownReason) -> Set<IPFamily> {
        switch reason {
        case .closed, .replaced, .unreachable, .stopped(.restart): keptForPeer
        case .received(let notification), .sent(let notification):
            coversNotifications && notification.cease != .hardReset ? keptForPeer : []
        case .stopped: []
        }
    }

    /// A farewell in the form that the peer understands: what is meant for long is a hard reset (RFC 8538 §3.1).
    func cease(_ reason: Cease, text: String) -> Notification {
        let notification = Notification.cease(reason, text: text)
        let isFinal = [.maximumPrefixes, .administrativeShutdown, .peerDeconfigured].contains(reason)
        return coversNotifications && isFinal ? notification.asHardReset : notification
    }
}
