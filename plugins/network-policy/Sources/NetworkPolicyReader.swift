import KnetCore

/// Makes a `Policy` of a NetworkPolicy (https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/).
struct NetworkPolicyReader {
    private let namespace: String
    private var problems: [String] = []

    static func read(_ object: NetworkPolicy) -> Policy {
        var reader = NetworkPolicyReader(namespace: object.key.namespace)
        return reader.policy(object)
    }

    private init(namespace: String) { self.namespace = namespace }

    private mutating func policy(_ object: NetworkPolicy) -> Policy {
        let spec = object.spec
        // A requirement that cannot be read is left out: the policy holds for more pods, not for fewer.
        let subject = PodMatcher(namespaces: .one(namespace), pods: LabelMatcher(spec?.podSelector))
        problems += subject.problems.map { "spec.\($0)" }
        for type in spec?.policyTypes ?? [] where !["Ingress", "Egress"].contains(type) {
            problems.append("spec.policyTypes: found \"\(type)\", allowed is Ingress, Egress")
        }
        let types =
            spec?.policyTypes.flatMap { $0.isEmpty ? nil : $0 }
            ?? (spec?.egress?.isEmpty == false ? ["Ingress", "Egress"] : ["Ingress"])
        let ingress = (spec?.ingress ?? []).enumerated().map { index, rule in
            self.rule("ingress[\(index)]", "from", rule.from, rule.ports)
        }
        var egress = (spec?.egress ?? []).enumerated().map { index, rule in
            self.rule("egress[\(index)]", "to", rule.to, rule.ports)
        }
        egress += domains(object)
        return Policy(
            key: object.key, tier: .network, subject: subject,
            ingress: types.contains("Ingress") ? ingress : nil, egress: types.contains("Egress") ? egress : nil,
            problems: problems)
    }

    /// Domain names that the policy's pods may reach at all ports, which Kubernetes' object has no field for.
    static let domainsAnnotation = "knetd.io/egress-domains"

    private mutating func domains(_ object: NetworkPolicy) -> [Policy.Rule] {
        guard let text = object.metadata.annotations?[Self.domainsAnnotation] else { return [] }
        var peers = Peers.nobody
        for word in text.split(whereSeparator: { $0 == "," || $0.isWhitespace }) {
            if let pattern = DomainPattern.normalised(word) {
                peers.domains.insert(pattern)
            } else {
                problems.append("metadata.annotations[\(Self.domainsAnnotation)]: \"\(word)\" is not a domain name")
            }
        }
        return [Policy.Rule(title: Self.domainsAnnotation, action: .accept, peers: peers, ports: .any)]
    }

    private mutating func rule(
        _ title: String, _ side: String, _ peers: [NetworkPolicy.Peer]?, _ ports: [NetworkPolicy.Port]?
    ) -> Policy.Rule {
        Policy.Rule(
            title: title, action: .accept, peers: self.peers(peers ?? [], at: "spec.\(title).\(side)"),
            ports: self.ports(ports ?? [], at: "spec.\(title).ports"))
    }

    private mutating func peers(_ all: [NetworkPolicy.Peer], at path: String) -> Peers {
        if all.isEmpty { return .anyone }
        var peers = Peers.nobody
        var spans: [AddressSpan] = []
        for (index, peer) in all.enumerated() {
            let path = "\(path)[\(index)]"
            if let block = peer.ipBlock {
                if peer.podSelector != nil || peer.namespaceSelector != nil {
                    problems.append("\(path): ipBlock goes with no other field")
                } else {
                    spans += self.spans(block, at: "\(path).ipBlock")
                }
            } else if peer.podSelector != nil || peer.namespaceSelector != nil {
                let matcher = PodMatcher(
                    namespaces: peer.namespaceSelector.map { .matching(LabelMatcher($0)) } ?? .one(namespace),
                    pods: LabelMatcher(peer.podSelector))
                if matcher.problems.isEmpty {
                    peers.pods.insert(matcher)
                } else {
                    problems += matcher.problems.map { "\(path).\($0)" }
                }
            } else {
                problems.append("\(path): found nothing, allowed is podSelector, namespaceSelector, ipBlock")
            }
        }
        peers.ranges = AddressSpan.disjoint(spans)
        return peers
    }

    private mutating func spans(_ block: NetworkPolicy.IPBlock, at path: String) -> [AddressSpan] {
        guard let whole = CIDR(lenient: block.cidr) else {
            problems.append("\(path).cidr: \"\(block.cidr)\" is not a CIDR")
            return []
        }
        var holes: [AddressSpan] = []
        for (index, text) in (block.except ?? []).enumerated() {
            guard let hole = CIDR(lenient: text) else {
                problems.append("\(path).except[\(index)]: \"\(text)\" is not a CIDR")
                return []
            }
            // Kubernetes admits only true parts.
            guard whole.contains(hole), whole != hole else {
                problems.append("\(path).except[\(index)]: \(text) is not inside of \(block.cidr)")
                return []
            }
            holes.append(AddressSpan(hole))
        }
        return AddressSpan(whole).subtracting(AddressSpan.disjoint(holes))
    }

    private mutating func ports(_ all: [NetworkPolicy.Port], at path: String) -> Ports {
        if all.isEmpty { return .any }
        var ports = Ports()
        for (index, port) in all.enumerated() {
            let path = "\(path)[\(index)]"
            guard let transport = HostPort.Transport(rawValue: (port.protocol ?? "TCP").lowercased())?.number else {
                problems.append("\(path).protocol: found \"\(port.protocol ?? "")\", allowed is TCP, UDP, SCTP")
                continue
            }
            switch port.port {
            case nil:
                if port.endPort == nil {
                    ports.spans.insert(PortSpan(transport: transport, first: 0, last: .max))
                } else {
                    problems.append("\(path).endPort: goes with a port only")
                }
            case .number(let number)?:
                let last = port.endPort ?? number
                guard (1...65_535).contains(number), (number...65_535).contains(max(last, number)), last >= number
                else {
                    problems.append(
                        port.endPort == nil
                            ? "\(path).port: found \(number), allowed is 1 to 65535"
                            : "\(path).endPort: found \(last), allowed is \(number) to 65535")
                    continue
                }
                ports.spans.insert(
                    PortSpan(transport: transport, first: UInt16(number), last: UInt16(last)))
            case .name(let name)?:
                if port.endPort == nil {
                    ports.named.insert(NamedPort(name: name, transport: transport))
                } else {
                    problems.append("\(path).endPort: goes with a number only")
                }
            }
        }
        return ports
    }
}

extension CIDR {
    /// As Kubernetes reads it: what stands behind the prefix counts for nothing.
    init?(lenient text: String) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, let address = IPAddress(String(parts[0])), let length = Int(parts[1]),
            (0...address.family.bits).contains(length)
        else { return nil }
        self.init(containing: address, prefixLength: length)
    }
}
