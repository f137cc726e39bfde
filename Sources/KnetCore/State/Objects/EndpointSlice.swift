public struct EndpointSlice: ClusterObject {
    public static let kind = ObjectKey.Kind.endpointSlice
    /// The label that names the Service a slice belongs to.
    public static let serviceLabel = "kubernetes.io/service-name"

    public struct Endpoint: Hashable, Sendable, Decodable {
        public struct Conditions: Hashable, Sendable, Decodable {
            public var ready: Bool?
            public var serving: Bool?
            public var terminating: Bool?

            public init(ready: Bool?, serving: Bool?, terminating: Bool?) {
                self.ready = ready
                self.serving = serving
                self.terminating = terminating
            }
        }
        public var addresses: [String]
        public var conditions: Conditions?
        public var hostname: String?
        public var nodeName: String?
        public var zone: String?

        public init(
            addresses: [String], conditions: Conditions?, hostname: String?, nodeName: String?, zone: String? = nil
        ) {
            self.addresses = addresses
            self.conditions = conditions
            self.hostname = hostname
            self.nodeName = nodeName
            self.zone = zone
        }
    }
    public struct Port: Hashable, Sendable, Decodable {
        public var name: String?
        public var port: Int?
        public var `protocol`: String?

        public init(name: String?, port: Int?, protocol: String?) {
            self.name = name
            self.port = port
            self.protocol = `protocol`
        }
    }

    public var metadata: Metadata
    public var addressType: String
    public var endpoints: [Endpoint]?
    public var ports: [Port]?

    public init(metadata: Metadata, addressType: String, endpoints: [Endpoint]?, ports: [Port]?) {
        self.metadata = metadata
        self.addressType = addressType
        self.endpoints = endpoints
        self.ports = ports
    }

    public init(
        name: String, namespace: String, service: String, addressType: String, endpoints: [Endpoint], ports: [Port]
    ) {
        metadata = Metadata(name: name, namespace: namespace, labels: [Self.serviceLabel: service])
        self.addressType = addressType
        self.endpoints = endpoints
        self.ports = ports
    }

    public var serviceName: String? { metadata.labels?[Self.serviceLabel] }
}
