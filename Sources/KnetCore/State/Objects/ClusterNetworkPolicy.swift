/// Rules of a cluster's administrators, which come before those of NetworkPolicies or after them
/// (https://network-policy-api.sigs.k8s.io). Nothing is checked here: what a rule may say is the enforcer's to judge.
public struct ClusterNetworkPolicy: ClusterObject, Encodable {
    public static let kind = ObjectKey.Kind.clusterNetworkPolicy
    /// Others have kinds of this name too.
    public static let apiVersion = "policy.networking.k8s.io/v1alpha2"

    /// Pods by the labels of their namespaces and their own.
    public struct NamespacedPods: Hashable, Sendable, Codable {
        public var namespaceSelector: LabelSelector?
        public var podSelector: LabelSelector?

        public init(namespaceSelector: LabelSelector?, podSelector: LabelSelector?) {
            self.namespaceSelector = namespaceSelector
            self.podSelector = podSelector
        }
    }
    /// Whose traffic is meant: one of the fields is set.
    public struct Subject: Hashable, Sendable, Codable {
        public var namespaces: LabelSelector?
        public var pods: NamespacedPods?

        public init(namespaces: LabelSelector? = nil, pods: NamespacedPods? = nil) {
            self.namespaces = namespaces
            self.pods = pods
        }
    }
    /// Where ingress comes from, or egress goes to: one of the fields is set, and of ingress one of the first two. A peer without
    /// any equals `Peer()`; it is of a definition that has more fields than these.
    public struct Peer: Hashable, Sendable, Codable {
        public var namespaces: LabelSelector?
        public var pods: NamespacedPods?
        public var nodes: LabelSelector?
        /// Ranges as text.
        public var networks: [String]?
        public var domainNames: [String]?

        public init(
            namespaces: LabelSelector? = nil, pods: NamespacedPods? = nil, nodes: LabelSelector? = nil,
            networks: [String]? = nil, domainNames: [String]? = nil
        ) {
            self.namespaces = namespaces
            self.pods = pods
            self.nodes = nodes
            self.networks = networks
            self.domainNames = domainNames
        }
    }
    /// Ports from one to another, both among them.
    public struct PortRange: Hashable, Sendable, Codable {
        public var start: Int?
        public var end: Int?

        public init(start: Int?, end: Int?) {
            self.start = start
            self.end = end
        }
    }
    /// One of the fields is set.
    public struct Port: Hashable, Sendable, Codable {
        public var number: Int?
        public var range: PortRange?

        public init(number: Int? = nil, range: PortRange? = nil) {
            self.number = number
            self.range = range
        }
    }
    /// All of a transport protocol's traffic, or that to some ports.
    public struct Transport: Hashable, Sendable, Codable {
        public var destinationPort: Port?

        public init(destinationPort: Port? = nil) { self.destinationPort = destinationPort }
    }
    /// One of the fields is set.
    public struct ProtocolMatch: Hashable, Sendable, Codable {
        public var tcp: Transport?
        public var udp: Transport?
        public var sctp: Transport?
        public var destinationNamedPort: String?

        public init(
            tcp: Transport? = nil, udp: Transport? = nil, sctp: Transport? = nil, destinationNamedPort: String? = nil
        ) {
            self.tcp = tcp
            self.udp = udp
            self.sctp = sctp
            self.destinationNamedPort = destinationNamedPort
        }
    }
    public struct Rule: Hashable, Sendable {
        public var name: String?
        /// `Accept`, `Deny` or `Pass`.
        public var action: String?
        /// `from` of ingress, `to` of egress.
        public var peers: [Peer]?
        public var protocols: [ProtocolMatch]?

        public init(
            name: String? = nil, action: String?, peers: [Peer]?, protocols: [ProtocolMatch]? = nil
        ) {
            self.name = name
            self.action = action
            self.peers = peers
            self.protocols = protocols
        }
    }
    public struct Spec: Hashable, Sendable {
        /// `Admin` or `Baseline`.
        public var tier: String?
        /// From 0 to 1000; the lower comes first in its tier.
        public var priority: Int?
        public var subject: Subject?
        /// The first that matches counts.
        public var ingress: [Rule]?
        public var egress: [Rule]?

        public init(
            tier: String?, priority: Int?, subject: Subject?, ingress: [Rule]? = nil, egress: [Rule]? = nil
        ) {
            self.tier = tier
            self.priority = priority
            self.subject = subject
            self.ingress = ingress
            self.egress = egress
        }
    }

    public var metadata: Metadata
    public var spec: Spec?
    /// Why the object could not be read, as one of another version of the definition.
    public var unreadable: String?

    private enum CodingKeys: String, CodingKey { case metadata, spec }

    public init(metadata: Metadata, spec: Spec? = nil, unreadable: String? = nil) {
        self.metadata = metadata
        self.spec = spec
        self.unreadable = unreadable
    }

    public var defect: String? { unreadable }
}

extension ClusterNetworkPolicy.Spec: Codable {
    private enum CodingKeys: String, CodingKey { case tier, priority, subject, ingress, egress }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        let ingress = try container.decodeIfPresent([RuleForm].self, forKey: .ingress)
        let egress = try container.decodeIfPresent([RuleForm].self, forKey: .egress)
        self.init(
            tier: try container.decodeIfPresent(String.self, forKey: .tier),
            priority: try container.decodeIfPresent(Int.self, forKey: .priority),
            subject: try container.decodeIfPresent(ClusterNetworkPolicy.Subject.self, forKey: .subject),
            ingress: ingress?.map { $0.rule(peers: $0.from) }, egress: egress?.map { $0.rule(peers: $0.to) })
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encodeIfPresent(tier, forKey: .tier)
        try container.encodeIfPresent(priority, forKey: .priority)
        try container.encodeIfPresent(subject, forKey: .subject)
        try container.encodeIfPresent(ingress?.map { RuleForm($0, from: $0.peers) }, forKey: .ingress)
        try container.encodeIfPresent(egress?.map { RuleForm($0, to: $0.peers) }, forKey: .egress)
    }
}

/// A rule as the API has it, with a field for the peers of either direction. One in the wrong direction does not count.
private struct RuleForm: Codable {
    var name: String?
    var action: String?
    var from: [ClusterNetworkPolicy.Peer]?
    var to: [ClusterNetworkPolicy.Peer]?
    var protocols: [ClusterNetworkPolicy.ProtocolMatch]?

    init(
        _ rule: ClusterNetworkPolicy.Rule, from: [ClusterNetworkPolicy.Peer]? = nil,
        to: [ClusterNetworkPolicy.Peer]? = nil
    ) {
        name = rule.name
        action = rule.action
        self.from = from
        self.to = to
        protocols = rule.protocols
    }

    func rule(peers: [ClusterNetworkPolicy.Peer]?) -> ClusterNetworkPolicy.Rule {
        ClusterNetworkPolicy.Rule(name: name, action: action, peers: peers, protocols: protocols)
    }
}
