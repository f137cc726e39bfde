/// A port by number or by name (`IntOrString` of the API).
public enum PortReference: Hashable, Sendable, Decodable {
    case number(Int)
    case name(String)

    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let number = try? container.decode(Int.self) {
            self = .number(number)
        } else {
            self = .name(try container.decode(String.self))
        }
    }
}

public struct Pod: ClusterObject {
    public static let kind = ObjectKey.Kind.pod

    public struct Port: Hashable, Sendable, Decodable {
        public var name: String?
        public var containerPort: Int
        public var `protocol`: String?

        public init(name: String?, containerPort: Int, protocol: String?) {
            self.name = name
            self.containerPort = containerPort
            self.protocol = `protocol`
        }
    }
    public struct Container: Hashable, Sendable, Decodable {
        /// What `restartPolicy` says of an init container that runs as long as the pod.
        public static let always = "Always"

        public var ports: [Port]?
        public var restartPolicy: String?

        public init(ports: [Port]?, restartPolicy: String? = nil) {
            self.ports = ports
            self.restartPolicy = restartPolicy
        }
    }
    /// What a pod adds to its resolver's file.
    public struct DNSConfig: Hashable, Sendable, Decodable {
        public var searches: [String]?

        public init(searches: [String]?) { self.searches = searches }
    }
    public struct Spec: Hashable, Sendable, Decodable {
        public var nodeName: String?
        public var hostNetwork: Bool?
        public var hostname: String?
        public var subdomain: String?
        public var containers: [Container]?
        public var initContainers: [Container]?
        /// `ClusterFirst`, `ClusterFirstWithHostNet`, `Default` or `None`.
        public var dnsPolicy: String?
        public var dnsConfig: DNSConfig?

        public init(
            nodeName: String?, hostNetwork: Bool?, hostname: String?, subdomain: String?, containers: [Container]?,
            initContainers: [Container]? = nil, dnsPolicy: String? = nil, dnsConfig: DNSConfig? = nil
        ) {
            self.dnsPolicy = dnsPolicy
            self.dnsConfig = dnsConfig
            self.nodeName = nodeName
            self.hostNetwork = hostNetwork
            self.hostname = hostname
            self.subdomain = subdomain
            self.containers = containers
            self.initContainers = initContainers
        }
    }
    public struct Status: Hashable, Sendable, Decodable {
        public struct IP: Hashable, Sendable, Decodable {
            public var ip: String

            public init(ip: String) { self.ip = ip }
        }
        public var phase: String?
        public var podIP: String?
        public var podIPs: [IP]?
        public var conditions: [Condition]?

        public init(phase: String?, podIPs: [IP]?, conditions: [Condition]?) {
            self.phase = phase
            self.podIPs = podIPs
            self.conditions = conditions
        }
    }

    public var metadata: Metadata
    public var spec: Spec?
    public var status: Status?

    public init(metadata: Metadata, spec: Spec? = nil, status: Status? = nil) {
        self.metadata = metadata
        self.spec = spec
        self.status = status
    }

    public var addresses: [IPAddress] {
        (status?.podIPs?.map(\.ip) ?? status?.podIP.map { [$0] } ?? []).compactMap { IPAddress($0) }
    }

    /// Whether it has addresses of its own. One that has ended has none any more, though its object still says so.
    public var isInPodNetwork: Bool {
        spec?.hostNetwork != true && !["Succeeded", "Failed"].contains(status?.phase ?? "")
    }

    /// The ports of all containers that run as long as the pod
    /// (https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/).
    public var ports: [Port] {
        let sidecars = (spec?.initContainers ?? []).filter { $0.restartPolicy == Container.always }
        return ((spec?.containers ?? []) + sidecars).flatMap { $0.ports ?? [] }
    }

    /// Condition `Ready`; a manifest without conditions means a pod that is ready.
    public var isReady: Bool {
        guard let conditions = status?.conditions else { return true }
        return conditions.contains { $0.type == Condition.ready && $0.status == "True" }
    }

    public var defect: String? {
        for text in status?.podIPs?.map(\.ip) ?? status?.podIP.map({ [$0] }) ?? [] where IPAddress(text) == nil {
            return "status.podIPs: \"\(text)\" is not an IP address"
        }
        return nil
    }
}
