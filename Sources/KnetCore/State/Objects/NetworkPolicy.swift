/// Which objects are meant by their labels; an empty selector means all.
public struct LabelSelector: Hashable, Sendable, Codable {
    public struct Requirement: Hashable, Sendable, Codable {
        public var key: String
        /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
        public var `operator`: String
        public var values: [String]?

        public init(key: String, operator: String, values: [String]?) {
            self.key = key
            self.operator = `operator`
            self.values = values
        }
    }

    public var matchLabels: [String: String]?
    public var matchExpressions: [Requirement]?

    public init(matchLabels: [String: String]? = nil, matchExpressions: [Requirement]? = nil) {
        self.matchLabels = matchLabels
        self.matchExpressions = matchExpressions
    }
}

public struct NetworkPolicy: ClusterObject {
    public static let kind = ObjectKey.Kind.networkPolicy

    public struct Port: Hashable, Sendable, Decodable {
        public var `protocol`: String?
        public var port: PortReference?
        public var endPort: Int?

        public init(protocol: String?, port: PortReference?, endPort: Int?) {
            self.protocol = `protocol`
            self.port = port
            self.endPort = endPort
        }
    }
    public struct IPBlock: Hashable, Sendable, Decodable {
        public var cidr: String
        public var except: [String]?

        public init(cidr: String, except: [String]?) {
            self.cidr = cidr
            self.except = except
        }
    }
    public struct Peer: Hashable, Sendable, Decodable {
        public var podSelector: LabelSelector?
        public var namespaceSelector: LabelSelector?
        public var ipBlock: IPBlock?

        public init(podSelector: LabelSelector?, namespaceSelector: LabelSelector?, ipBlock: IPBlock?) {
            self.podSelector = podSelector
            self.namespaceSelector = namespaceSelector
            self.ipBlock = ipBlock
        }
    }
    public struct IngressRule: Hashable, Sendable, Decodable {
        public var ports: [Port]?
        public var from: [Peer]?

        public init(ports: [Port]?, from: [Peer]?) {
            self.ports = ports
            self.from = from
        }
    }
    public struct EgressRule: Hashable, Sendable, Decodable {
        public var ports: [Port]?
        public var to: [Peer]?

        public init(ports: [Port]?, to: [Peer]?) {
            self.ports = ports
            self.to = to
        }
    }
    public struct Spec: Hashable, Sendable, Decodable {
        public var podSelector: LabelSelector?
        public var ingress: [IngressRule]?
        public var egress: [EgressRule]?
        public var policyTypes: [String]?

        public init(
            podSelector: LabelSelector?, ingress: [IngressRule]?, egress: [EgressRule]?, policyTypes: [String]?
        ) {
            self.podSelector = podSelector
            self.ingress = ingress
            self.egress = egress
            self.policyTypes = policyTypes
        }
    }

    public var metadata: Metadata
    public var spec: Spec?

    public init(metadata: Metadata, spec: Spec? = nil) {
        self.metadata = metadata
        self.spec = spec
    }
}
