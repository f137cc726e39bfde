import KnetCore

/// Makes a `Policy` of a ClusterNetworkPolicy (https://network-policy-api.sigs.k8s.io, v1alpha2). What cannot be read fails closed as that
/// page has it: a rule that accepts matches nothing, one that denies or passes on denies all.
struct ClusterNetworkPolicyReader {
    private var problems: [String] = []

    /// Elements of a list (`maxItems` of the definition).
    private static let mostItems = 25

    static func read(_ object: ClusterNetworkPolicy) -> Policy {
        var reader = ClusterNetworkPolicyReader()
        return reader.policy(object)
    }

    private mutating func policy(_ object: ClusterNetworkPolicy) -> Policy {
        let spec = object.spec
        let priority = spec?.priority ?? 0
        var tier = Policy.Tier.admin(priority)
        var isWhole = true
        switch spec?.tier {
        case "Admin": break
        case "Baseline": tier = .baseline(priority)
        default:
            isWhole = false
            problems.append("spec.tier: found \"\(spec?.tier ?? "nothing")\", allowed is Admin, Baseline")
        }
        if spec?.priority.map({ (0...1_000).contains($0) }) != true {
            isWhole = false
            problems.append(
                "spec.priority: found \(spec?.priority.map(String.init) ?? "nothing"), allowed is 0 to 1000")
        }
        let subject = subject(spec?.subject)
        func rules(_ all: [ClusterNetworkPolicy.Rule]?, _ direction: Direction) -> [Policy.Rule]? {
            guard let all, !all.isEmpty else { return nil }
            let path = "spec.\(direction.rawValue)"
            if all.count > Self.mostItems { problems.append("\(path): found \(all.count) rules, allowed are 25") }
            // An object that the API would not take denies in the directions of which it speaks.
            guard isWhole, all.count <= Self.mostItems else {
                return [Policy.Rule(title: path, action: .deny, peers: .anyone, ports: .any)]
            }
            return all.enumerated().map { rule($1, direction, at: "\(path)[\($0)]", index: $0) }
        }
        let (ingress, egress) = (rules(spec?.ingress, .ingress), rules(spec?.egress, .egress))
        return Policy(
            key: object.key, tier: tier, subject: subject, ingress: ingress, egress: egress, problems: problems)
    }

    private mutating func subject(_ subject: ClusterNetworkPolicy.Subject?) -> PodMatcher {
        switch (subject?.namespaces, subject?.pods) {
        case (let namespaces?, nil):
            return checked(
                PodMatcher(namespaces: .matching(LabelMatcher(namespaces)), pods: .everything), at: "spec.subject")
        case (nil, let pods?): return checked(PodMatcher(pods), at: "spec.subject.pods")
        default:
            problems.append("spec.subject: allowed is one of namespaces, pods; the policy holds for all pods")
            return .all
        }
    }

    /// Requirements that cannot be read are left out: the policy holds for more pods, not for fewer.
    private mutating func checked(_ matcher: PodMatcher, at path: String) -> PodMatcher {
        problems += matcher.problems.map { "\(path).\($0)" }
        return matcher
    }

    private mutating func rule(
        _ rule: ClusterNetworkPolicy.Rule, _ direction: Direction, at path: String, index: Int
    ) -> Policy.Rule {
        let title = rule.name.flatMap { $0.isEmpty ? nil : $0 } ?? "\(direction.rawValue)[\(index)]"
        let known = problems.count
        let action = rule.action.flatMap { Policy.Action(rawValue: $0) }
        if action == nil {
            problems.append("\(path).action: found \"\(rule.action ?? "nothing")\", allowed is Accept, Deny, Pass")
        }
        let side = direction == .ingress ? "from" : "to"
        let all = rule.peers ?? []
        if all.isEmpty || all.count > Self.mostItems {
            problems.append("\(path).\(side): found \(all.count) peers, allowed are 1 to 25")
        }
        let peers = self.peers(all, direction, action, at: "\(path).\(side)")
        let ports = self.ports(rule.protocols, at: "\(path).protocols")
        guard problems.count > known else {
            return Policy.Rule(title: title, action: action ?? .deny, peers: peers, ports: ports)
        }
        return action == .accept
            ? Policy.Rule(title: title, action: .accept, peers: .nobody, ports: ports)
            : Policy.Rule(title: title, action: .deny, peers: .anyone, ports: .any)
    }

    private mutating func peers(
        _ all: [ClusterNetworkPolicy.Peer], _ direction: Direction, _ action: Policy.Action?, at path: String
    ) -> Peers {
        var peers = Peers.nobody
        var spans: [AddressSpan] = []
        for (index, peer) in all.enumerated() {
            let path = "\(path)[\(index)]"
            let isEgress = direction == .egress
            switch (peer.namespaces, peer.pods, peer.nodes, peer.networks, peer.domainNames) {
            case (let namespaces?, nil, nil, nil, nil):
                peers.pods.insert(
                    checked(
                        PodMatcher(namespaces: .matching(LabelMatcher(namespaces)), pods: .everything), at: path))
            case (nil, let pods?, nil, nil, nil): peers.pods.insert(checked(PodMatcher(pods), at: "\(path).pods"))
            case (nil, nil, nil, let networks?, nil) where isEgress:
                for (index, text) in networks.enumerated() {
                    if let block = CIDR(lenient: text) {
                        spans.append(AddressSpan(block))
                    } else {
                        problems.append("\(path).networks[\(index)]: \"\(text)\" is not a CIDR")
                    }
                }
            case (nil, nil, nil, nil, let names?) where isEgress && action == .accept:
                for (index, name) in names.enumerated() {
                    if let pattern = DomainPattern.normalised(name) {
                        peers.domains.insert(pattern)
                    } else {
                        problems.append("\(path).domainNames[\(index)]: \"\(name)\" is not a domain name")
                    }
                }
            default:
                problems.append(
                    "\(path): allowed is one of namespaces, pods"
                        + (isEgress ? ", networks, and domainNames where the action is Accept" : ""))
            }
        }
        peers.ranges = AddressSpan.disjoint(spans)
        return peers
    }

    private mutating func ports(_ all: [ClusterNetworkPolicy.ProtocolMatch]?, at path: String) -> Ports {
        guard let all else { return .any }
        if all.isEmpty || all.count > Self.mostItems {
            problems.append("\(path): found \(all.count), allowed are 1 to 25")
        }
        var ports = Ports()
        for (index, match) in all.enumerated() {
            let path = "\(path)[\(index)]"
            switch (match.tcp, match.udp, match.sctp, match.destinationNamedPort) {
            case (let tcp?, nil, nil, nil): insert(tcp.destinationPort, .tcp, into: &ports, at: "\(path).tcp")
            case (nil, let udp?, nil, nil): insert(udp.destinationPort, .udp, into: &ports, at: "\(path).udp")
            case (nil, nil, let sctp?, nil): insert(sctp.destinationPort, .sctp, into: &ports, at: "\(path).sctp")
            case (nil, nil, nil, let name?): ports.named.insert(NamedPort(name: name, transport: nil))
            default: problems.append("\(path): allowed is one of tcp, udp, sctp, destinationNamedPort")
            }
        }
        return ports
    }

    private mutating func insert(
        _ port: ClusterNetworkPolicy.Port?, _ transport: HostPort.Transport, into ports: inout Ports, at path: String
    ) {
        var span: ClosedRange<Int>?
        switch (port?.number, port?.range) {
        case (nil, nil) where port == nil: span = 0...65_535
        case (let number?, nil) where (1...65_535).contains(number): span = number...number
        case (nil, let range?):
            if let start = range.start, let end = range.end, start >= 1, end <= 65_535, start < end {
                span = start...end
            }
        default: break
        }
        guard let span else {
            problems.append(
                "\(path).destinationPort: allowed is a number from 1 to 65535, or a range whose end is behind its start"
            )
            return
        }
        ports.spans.insert(
            PortSpan(transport: transport.number, first: UInt16(span.lowerBound), last: UInt16(span.upperBound)))
    }
}

extension PodMatcher {
    fileprivate init(_ pods: ClusterNetworkPolicy.NamespacedPods) {
        self.init(
            namespaces: .matching(LabelMatcher(pods.namespaceSelector)), pods: LabelMatcher(pods.podSelector))
    }
}
