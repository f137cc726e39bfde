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
    public struct Spec: Hashable, Sendable, Decodable {
        public var type: String?
        public var clusterIP: String?
        public var clusterIPs: [String]?
        public var ports: [Port]?
        public var selector: [String: String]?
        public var publishNotReadyAddresses: Bool?
        public var externalName: String?

        public init(
            type: String?, clusterIP: String?, clusterIPs: [String]?, ports: [Port]?, selector: [String: String]?,
            publishNotReadyAddresses: Bool?, externalName: String?
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

    public var metadata: Metadata
    public var spec: Spec?

    public init(metadata: Metadata, spec: Spec? = nil) {
        self.metadata = metadata
        self.spec = spec
    }
}
