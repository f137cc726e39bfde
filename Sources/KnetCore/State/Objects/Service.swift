public struct Service: ClusterObject {
    public static let kind = ObjectKey.Kind.service

    public struct Port: Hashable, Sendable, Decodable {
        public var name: String?
        public var `protocol`: String?
        public var port: Int
        public var targetPort: PortReference?
        public var nodePort: Int?

        public init(
            name: String?, protocol: String?, port: Int, targetPort: PortReference?, nodePort: Int?
        ) {
            self.name = name
            self.protocol = `protocol`
            self.port = port
            self.targetPort = targetPort
            self.nodePort = nodePort
        }
    }
    public struct AffinityConfig: Hashable, Sendable, Decodable {
        public struct ClientIP: Hashable, Sendable, Decodable {
            public var timeoutSeconds: Int?

            public init(timeoutSeconds: Int?) { self.timeoutSeconds = timeoutSeconds }
        }
        public var clientIP: ClientIP?

        public init(clientIP: ClientIP?) { self.clientIP = clientIP }
    }
    public struct Spec: Hashable, Sendable, Decodable {
        public var type: String?
        public var clusterIP: String?
        public var clusterIPs: [String]?
        public var ports: [Port]?
        public var selector: [String: String]?
        public var publishNotReadyAddresses: Bool?
        public var externalName: String?
        public var externalIPs: [String]?
        public var sessionAffinity: String?
        public var sessionAffinityConfig: AffinityConfig?
        public var loadBalancerSourceRanges: [String]?
        public var externalTrafficPolicy: String?
        public var internalTrafficPolicy: String?
        public var healthCheckNodePort: Int?
        public var loadBalancerIP: String?
        public var loadBalancerClass: String?
        public var ipFamilies: [String]?
        public var ipFamilyPolicy: String?

        public init(
            type: String? = nil, clusterIP: String? = nil, clusterIPs: [String]? = nil, ports: [Port]? = nil,
            selector: [String: String]? = nil, publishNotReadyAddresses: Bool? = nil, externalName: String? = nil
        ) {
            self.type = type
            self.clusterIP = clusterIP
            self.clusterIPs = clusterIPs
            self.ports = ports
            self.selector = selector
            self.publishNotReadyAddresses = publishNotReadyAddresses
            self.externalName = externalName
        }
    }
    public struct Status: Hashable, Sendable, Codable {
        public struct LoadBalancer: Hashable, Sendable, Codable {
            public var ingress: [Ingress]?

            public init(ingress: [Ingress]?) { self.ingress = ingress }
        }
        public struct Ingress: Hashable, Sendable, Codable {
            public var ip: String?
            /// `VIP`, or `Proxy` where nodes leave the address to the load balancer.
            public var ipMode: String?

            public init(ip: String?, ipMode: String?) {
                self.ip = ip
                self.ipMode = ipMode
            }
        }
        /// What came of one thing that was tried for the Service (metav1.Condition).
        public struct Condition: Hashable, Sendable, Codable {
            public var type: String
            /// `True`, `False` or `Unknown`.
            public var status: String
            public var reason: String?
            public var message: String?

            public init(type: String, status: String, reason: String?, message: String?) {
                self.type = type
                self.status = status
                self.reason = reason
                self.message = message
            }
        }
        public var loadBalancer: LoadBalancer?
        public var conditions: [Condition]?

        public init(loadBalancer: LoadBalancer?, conditions: [Condition]? = nil) {
            self.loadBalancer = loadBalancer
            self.conditions = conditions
        }
    }

    public var metadata: Metadata
    /// Behind a reference: the state and its source hold the same ten thousand of them.
    private var shared: Shared<Spec>?
    public var status: Status?

    public var spec: Spec? {
        get { shared?.value }
        set { shared = newValue.map(Shared.init) }
    }

    private enum CodingKeys: String, CodingKey {
        case metadata, status
        case shared = "spec"
    }

    public init(metadata: Metadata, spec: Spec? = nil, status: Status? = nil) {
        self.metadata = metadata
        shared = spec.map(Shared.init)
        self.status = status
    }
}
