import KnetCore
import SwiftProtobuf

extension LabelSelector {
    init(_ wire: WireLabelSelector, _ shared: inout SharedValues) {
        self.init(
            matchLabels: shared.share(wire.matchLabels),
            matchExpressions: wire.matchExpressions.map {
                Requirement(key: $0.key, operator: $0.operator, values: $0.values.nonEmpty)
            }.nonEmpty)
    }

    var wire: WireLabelSelector {
        .with {
            $0.matchLabels = matchLabels ?? [:]
            $0.matchExpressions = (matchExpressions ?? []).map { requirement in
                .with {
                    $0.key = requirement.key
                    $0.operator = requirement.operator
                    $0.values = requirement.values ?? []
                }
            }
        }
    }
}

extension NetworkPolicy {
    init(_ wire: WireNetworkPolicy, _ shared: inout SharedValues) {
        self.init(
            metadata: Metadata(
                wire.metadata, &shared, labels: { _ in false }, annotations: { $0.hasPrefix(Metadata.ownAnnotations) }))
        spec = Spec(
            podSelector: LabelSelector(wire.spec.podSelector, &shared),
            ingress: wire.spec.ingress.map { rule in
                IngressRule(
                    ports: rule.ports.map(Port.init).nonEmpty, from: rule.from.map { Peer($0, &shared) }.nonEmpty)
            }.nonEmpty,
            egress: wire.spec.egress.map { rule in
                EgressRule(ports: rule.ports.map(Port.init).nonEmpty, to: rule.to.map { Peer($0, &shared) }.nonEmpty)
            }.nonEmpty, policyTypes: wire.spec.policyTypes.nonEmpty)
    }

    var wire: WireNetworkPolicy {
        .with {
            $0.metadata = metadata.wire
            guard let spec else { return }
            if let selector = spec.podSelector { $0.spec.podSelector = selector.wire }
            $0.spec.policyTypes = spec.policyTypes ?? []
            $0.spec.ingress = (spec.ingress ?? []).map { rule in
                .with {
                    $0.ports = (rule.ports ?? []).map(\.wire)
                    $0.from = (rule.from ?? []).map(\.wire)
                }
            }
            $0.spec.egress = (spec.egress ?? []).map { rule in
                .with {
                    $0.ports = (rule.ports ?? []).map(\.wire)
                    $0.to = (rule.to ?? []).map(\.wire)
                }
            }
        }
    }
}

extension NetworkPolicy.Port {
    fileprivate init(_ wire: WireNetworkPolicyPort) {
        self.init(
            protocol: wire.protocol.nonEmpty, port: wire.hasPort ? PortReference(wire.port) : nil,
            endPort: wire.hasEndPort ? Int(wire.endPort) : nil)
    }

    fileprivate var wire: WireNetworkPolicyPort {
        .with {
            $0.protocol = self.protocol ?? ""
            if let port { $0.port = port.wire }
            if let endPort { $0.endPort = Int32(clamping: endPort) }
        }
    }
}

extension NetworkPolicy.Peer {
    fileprivate init(_ wire: WireNetworkPolicyPeer, _ shared: inout SharedValues) {
        self.init(
            podSelector: wire.hasPodSelector ? LabelSelector(wire.podSelector, &shared) : nil,
            namespaceSelector: wire.hasNamespaceSelector ? LabelSelector(wire.namespaceSelector, &shared) : nil,
            ipBlock: wire.hasIpBlock
                ? NetworkPolicy.IPBlock(cidr: wire.ipBlock.cidr, except: wire.ipBlock.except.nonEmpty) : nil)
    }

    fileprivate var wire: WireNetworkPolicyPeer {
        .with {
            if let podSelector { $0.podSelector = podSelector.wire }
            if let namespaceSelector { $0.namespaceSelector = namespaceSelector.wire }
            if let ipBlock {
                $0.ipBlock.cidr = ipBlock.cidr
                $0.ipBlock.except = ipBlock.except ?? []
            }
        }
    }
}
