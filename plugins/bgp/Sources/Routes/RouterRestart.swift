import KnetCore

/// After a restart peers keep what they knew until they are told that they were told all, and so does this node (RFC 4724 §4.1).
extension Router {
    /// So long a peer without graceful restart has for telling its routes.
    private static let settling = Duration.seconds(10)

    /// Whether all peers have told all that they know.
    func hasHeardAll(now: Duration) -> Bool { peers.values.allSatisfy { Self.hasToldAll($0, now) } }

    /// Whether those have that do not restart themselves and wait for this router.
    func mayEndDeferral(now: Duration) -> Bool {
        peers.values.allSatisfy {
            $0.established?.negotiated.peerIsRestarting == true || Self.hasToldAll($0, now)
        }
    }

    /// Who keeps no routes for others need not say when it is done.
    private static func hasToldAll(_ peer: Peer, _ now: Duration) -> Bool {
        guard let negotiated = peer.established?.negotiated else { return false }
        return negotiated.context.families.isSubset(of: peer.toldAll)
            || (negotiated.keptByPeer.isEmpty && now - peer.session.since > settling)
    }

    /// Says to all peers that they know all.
    mutating func endDeferral() -> [RouterAction] {
        guard isDeferring else { return [] }
        isDeferring = false
        return collect { router in
            for key in router.peers.keys.sorted() { router.sayAllIsTold(key) }
        }
    }
}
