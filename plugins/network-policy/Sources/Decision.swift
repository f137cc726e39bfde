import KnetCore

/// One end of a connection.
struct PolicyPeer {
    /// The pod that has the address, be it on this node or on another.
    let pod: Pod?
    let facts: PodFacts?
    let address: IPAddress

    init(_ address: IPAddress, pod: Pod? = nil, in state: ClusterState) {
        self.address = address
        self.pod = pod
        facts = pod.map { PodFacts($0, in: state) }
    }
}

/// What policies say of a connection by the objects alone, without the kernel.
struct Decision {
    enum Outcome: Equatable {
        case accept, deny
    }

    let outcome: Outcome
    /// Which policies hold for the pod in this direction, in the order in which they are asked.
    let policies: [ObjectKey]
    /// The rule that decided; `nil` where none did.
    let rule: (policy: ObjectKey, title: String)?

    /// - Parameters:
    ///   - subject: the pod for which policies hold: the sender for egress, the receiver for ingress.
    ///   - port: of the receiver.
    init(
        _ direction: Direction, subject: PolicyPeer, other: PolicyPeer, transport: UInt8, port: UInt16,
        _ index: PolicyIndex
    ) {
        guard let facts = subject.facts else {
            self.init(.accept, [], nil)
            return
        }
        let profile = index.profile(of: facts, direction)
        // A pod always reaches itself.
        if subject.address == other.address {
            self.init(.accept, profile.all, nil)
            return
        }
        let receiver = direction == .ingress ? subject : other
        func firstMatch(_ keys: [ObjectKey]) -> (ObjectKey, Policy.Rule)? {
            for key in keys {
                for rule in index.policies[key]?.rules(direction) ?? []
                where rule.peers.matches(other) && rule.ports.match(transport, port, receiver) {
                    return (key, rule)
                }
            }
            return nil
        }
        if let (key, rule) = firstMatch(profile.admin), rule.action != .pass {
            self.init(rule.action == .accept ? .accept : .deny, profile.all, (key, rule.title))
        } else if !profile.network.isEmpty {
            let match = firstMatch(profile.network)
            self.init(match == nil ? .deny : .accept, profile.all, match.map { ($0.0, $0.1.title) })
        } else if let (key, rule) = firstMatch(profile.baseline), rule.action != .pass {
            self.init(rule.action == .accept ? .accept : .deny, profile.all, (key, rule.title))
        } else {
            self.init(.accept, profile.all, nil)
        }
    }

    private init(_ outcome: Outcome, _ policies: [ObjectKey], _ rule: (policy: ObjectKey, title: String)?) {
        self.outcome = outcome
        self.policies = policies
        self.rule = rule
    }
}

extension Peers {
    fileprivate func matches(_ peer: PolicyPeer) -> Bool {
        if isAnyone || ranges.contains(where: { $0.contains(peer.address) }) { return true }
        guard let facts = peer.facts, peer.pod?.isInPodNetwork == true else { return false }
        return pods.contains { $0.matches(facts) }
    }
}

extension Ports {
    fileprivate func match(_ transport: UInt8, _ port: UInt16, _ receiver: PolicyPeer) -> Bool {
        if isAny || spans.contains(where: { $0.transport == transport && $0.first <= port && port <= $0.last }) {
            return true
        }
        let own = receiver.pod.flatMap { $0.isInPodNetwork ? $0.ports : nil } ?? []
        return named.contains { named in
            own.contains { candidate in
                candidate.name == named.name && candidate.containerPort == Int(port)
                    && HostPort.Transport(rawValue: (candidate.protocol ?? "TCP").lowercased())?.number == transport
                    && (named.transport ?? transport) == transport
            }
        }
    }
}
