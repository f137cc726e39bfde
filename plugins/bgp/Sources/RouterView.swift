import KnetBFD
import KnetCore

/// What the router has to tell people.
struct RouterView {
    private let router: Router
    private let now: Duration
    private let barred: Set<PeerKey>
    private let liveness: LivenessWatch

    init(_ router: Router, now: Duration, barred: Set<PeerKey>, liveness: LivenessWatch) {
        self.router = router
        self.now = now
        self.barred = barred
        self.liveness = liveness
    }

    var peers: JSONValue {
        .array(router.peers.sorted { $0.key < $1.key }.map { key, peer in told(key, peer) })
    }

    private func told(_ key: PeerKey, _ peer: Peer) -> JSONValue {
        let session = peer.session
        let negotiated = peer.established?.negotiated
        var fields: [String: JSONValue] = [
            "peer": .string("\(key)"), "state": .string(session.state.rawValue),
            "seconds": .integer(Int((now - session.since) / .seconds(1))), "flaps": .integer(session.flaps),
            "as": peer.settings.session.peerAS.map { .integer(Int($0)) } ?? .null,
            "learnt": .integer(peer.learnt.count), "filtered": .integer(peer.filtered),
            "advertised": .integer(peer.advertised.count),
            "lastDown": session.lastDown.map { .string("\($0)") } ?? .null,
            "refreshes": .integer(peer.refreshes), "malformed": .integer(peer.malformed),
            "lastFault": peer.lastFault.map(JSONValue.string) ?? .null,
        ]
        if barred.contains(key) {
            fields["lastDown"] = .string("it told more than \(peer.settings.routeLimit) usable routes")
        }
        if let negotiated {
            fields["as"] = .integer(Int(negotiated.peerAS))
            fields["families"] = .array(negotiated.context.families.sorted().map { .string($0.description) })
            fields["holdSeconds"] = .integer(negotiated.holdTime.map { Int($0 / .seconds(1)) } ?? 0)
            fields["gracefulRestart"] = .boolean(!negotiated.keptForPeer.isEmpty)
        }
        if let neighbour = liveness.neighbour(key.address) {
            fields["bfd"] = .string("\(neighbour.liveness): \(neighbour.reason)")
        }
        return .object(fields)
    }

    /// What is told to whom, and what is learnt of whom.
    func routes(refused: [CIDR: String]) -> JSONValue {
        let advertised = router.local.keys.sorted().map { prefix -> JSONValue in
            var (to, notTo): ([JSONValue], [JSONValue]) = ([], [])
            for (key, peer) in router.peers.sorted(by: { $0.key < $1.key }) {
                if peer.advertised[prefix] != nil {
                    to.append(.string("\(key)"))
                } else {
                    notTo.append(["peer": .string("\(key)"), "reason": .string(reason(prefix, peer))])
                }
            }
            return ["prefix": .string("\(prefix)"), "to": .array(to), "notTo": .array(notTo)]
        }
        let learnt = router.best.sorted { $0.key < $1.key }.map { prefix, candidates -> JSONValue in
            [
                "prefix": .string("\(prefix)"),
                "by": .array(candidates.map { told($0) }),
                "refused": refused[prefix].map(JSONValue.string) ?? .null,
            ]
        }
        return ["advertised": .array(advertised), "learnt": .array(learnt)]
    }

    private func told(_ candidate: Candidate) -> JSONValue {
        let path = candidate.route.attributes.asPath.segments.flatMap(\.numbers).map(String.init)
        return [
            "peer": .string("\(candidate.peer)"), "nextHop": .string("\(candidate.route.nextHop.address)"),
            "path": .string(path.joined(separator: " ")), "stale": .boolean(candidate.route.isStale),
        ]
    }

    private func reason(_ prefix: CIDR, _ peer: Peer) -> String {
        guard let negotiated = peer.established?.negotiated else {
            return "the session is \(peer.session.state.rawValue)"
        }
        guard negotiated.context.families.contains(prefix.family) else { return "\(prefix.family) was not agreed on" }
        return "this node has no address of \(prefix.family) as next hop"
    }

    /// With FRR's names where it has them (https://github.com/tynany/frr_exporter).
    func measure(_ page: inout MetricsText) {
        let peers = router.peers.sorted { $0.key < $1.key }
        func family(_ name: String, _ kind: String, _ help: String, _ value: (Peer) -> Double) {
            page.family("knetd_bgp_\(name)", kind, help)
            for (key, peer) in peers { page.sample("knetd_bgp_\(name)", ["peer": "\(key)"], value(peer)) }
        }
        family("peer_state", "gauge", "1 where the session is Established.") {
            $0.session.state == .established ? 1 : 0
        }
        family("peer_uptime_seconds", "gauge", "Since the session is as it is.") {
            (now - $0.session.since) / .seconds(1)
        }
        family("peer_prefixes_received_count_total", "gauge", "Usable prefixes that the peer tells.") {
            Double($0.learnt.count)
        }
        family("peer_prefixes_advertised_count_total", "gauge", "Prefixes that the peer is told.") {
            Double($0.advertised.count)
        }
        family("peer_flaps_total", "counter", "How often the session ended.") { Double($0.session.flaps) }
        family("peer_refreshes_total", "counter", "How often it asked to be told all of a family again.") {
            Double($0.refreshes)
        }
        family("peer_malformed_total", "counter", "UPDATE messages with errors.") { Double($0.malformed) }
        family("messages_received_total", "counter", "Messages that came.") {
            Double($0.session.counters.received.values.reduce(0, +))
        }
        family("messages_sent_total", "counter", "Messages that went.") {
            Double($0.session.counters.sent.values.reduce(0, +))
        }
    }
}
