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
        /// Where the endpoint should be used from (https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/).
        public struct Hints: Hashable, Sendable, Decodable {
            public struct Name: Hashable, Sendable, Decodable {
                public var name: String

                public init(name: String) { self.name = name }
            }
            public var forZones: [Name]?
            public var forNodes: [Name]?

            public init(forZones: [Name]?, forNodes: [Name]?) {
                self.forZones = forZones
                self.forNodes = forNodes
            }
        }
        public var addresses: [String]
        public var conditions: Conditions?
        public var hostname: String?
        public var nodeName: String?
        public var zone: String?
        public var hints: Hints?

        public init(
            addresses: [String], conditions: Conditions?, hostname: String?, nodeName: String?, zone: String? = nil,
            hints: Hints? = nil
        ) {
            self.addresses = addresses
            self.conditions = conditions
            self.hostname = hostname
            self.nodeName = nodeName
            self.zone = zone
            self.hints = hints
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
    /// When the pod or Service changed that led to this version of the slice, in seconds since 1970
    /// (`endpoints.kubernetes.io/last-change-trigger-time`).
    public var triggered: Double?

    private enum CodingKeys: String, CodingKey { case metadata, addressType, endpoints, ports }

    public init(
        metadata: Metadata, addressType: String, endpoints: [Endpoint]?, ports: [Port]?, triggered: Double? = nil
    ) {
        self.metadata = metadata
        self.addressType = addressType
        self.endpoints = endpoints
        self.ports = ports
        self.triggered = triggered
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

    /// The Service's key.
    public var service: ObjectKey? {
        serviceName.map { ObjectKey(.service, namespace: key.namespace, name: $0) }
    }
}
