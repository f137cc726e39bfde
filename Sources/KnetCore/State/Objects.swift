// The cluster's objects, reduced to what knetd uses. Field names are those of the Kubernetes API
// (https://kubernetes.io/docs/reference/kubernetes-api/); what is not listed is not kept.

/// An object of the cluster: `metadata.name`, and `metadata.namespace` where its kind has one.
public protocol ClusterObject: Hashable, Sendable, Decodable {
    static var kind: ObjectKey.Kind { get }
    var metadata: Metadata { get }
    /// What makes the object unusable, as `field: reason`; `nil` where nothing does.
    var defect: String? { get }
}

extension ClusterObject {
    public var defect: String? { nil }

    public var key: ObjectKey {
        ObjectKey(
            Self.kind, namespace: Self.kind.isNamespaced ? metadata.namespace ?? "default" : "", name: metadata.name)
    }
}

extension ObjectKey.Kind {
    public var isNamespaced: Bool {
        switch self {
        case .pod, .service, .endpointSlice, .networkPolicy: true
        case .node, .namespace, .local, .attachment: false
        }
    }
}

public struct Metadata: Hashable, Sendable, Decodable {
    public var name: String
    public var namespace: String?
    public var labels: [String: String]?
    public var annotations: [String: String]?
    public var deletionTimestamp: String?

    public init(
        name: String, namespace: String? = nil, labels: [String: String]? = nil, annotations: [String: String]? = nil
    ) {
        self.name = name
        self.namespace = namespace
        self.labels = labels
        self.annotations = annotations
    }
}

public struct Node: ClusterObject {
    public static let kind = ObjectKey.Kind.node

    public struct Spec: Hashable, Sendable, Decodable {
        public var podCIDR: String?
        public var podCIDRs: [String]?
    }
    public struct Status: Hashable, Sendable, Decodable {
        public struct Address: Hashable, Sendable, Decodable {
            public var type: String
            public var address: String
        }
        public var addresses: [Address]?
    }

    public var metadata: Metadata
    public var spec: Spec?
    public var status: Status?

    public init(name: String, podCIDRs: [CIDR], addresses: [IPAddress], annotations: [String: String]? = nil) {
        metadata = Metadata(name: name, annotations: annotations)
        spec = Spec(podCIDR: podCIDRs.first?.description, podCIDRs: podCIDRs.map(\.description))
        status = Status(addresses: addresses.map { .init(type: "InternalIP", address: $0.description) })
    }

    /// `spec.podCIDRs`, or the older `spec.podCIDR` where that is all there is.
    public var podCIDRs: [CIDR] { podCIDRTexts.compactMap { CIDR($0) } }

    /// The first InternalIP of the family.
    public func internalIP(_ family: IPFamily) -> IPAddress? {
        (status?.addresses ?? []).lazy.filter { $0.type == "InternalIP" }.compactMap { IPAddress($0.address) }
            .first { $0.family == family }
    }

    public var defect: String? {
        for (index, text) in podCIDRTexts.enumerated() {
            do { _ = try CIDR.parse(text) } catch { return "spec.podCIDRs[\(index)]: \(error)" }
        }
        for (index, entry) in (status?.addresses ?? []).enumerated()
        where entry.type == "InternalIP" && IPAddress(entry.address) == nil {
            return "status.addresses[\(index)]: \"\(entry.address)\" is not an IP address"
        }
        for family in IPFamily.allCases {
            if let address = internalIP(family), let reason = CIDR(host: address).reservedFor {
                return "status.addresses: InternalIP \(address) is one of \(reason)"
            }
        }
        return nil
    }

    private var podCIDRTexts: [String] { spec?.podCIDRs ?? spec?.podCIDR.map { [$0] } ?? [] }
}

public struct Namespace: ClusterObject {
    public static let kind = ObjectKey.Kind.namespace
    public var metadata: Metadata
}

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
    }
    public struct Container: Hashable, Sendable, Decodable {
        public var ports: [Port]?
    }
    public struct Spec: Hashable, Sendable, Decodable {
        public var nodeName: String?
        public var hostNetwork: Bool?
        public var hostname: String?
        public var subdomain: String?
        public var containers: [Container]?
    }
    public struct Status: Hashable, Sendable, Decodable {
        public struct IP: Hashable, Sendable, Decodable {
            public var ip: String
        }
        public struct Condition: Hashable, Sendable, Decodable {
            public var type: String
            public var status: String
        }
        public var phase: String?
        public var podIP: String?
        public var podIPs: [IP]?
        public var conditions: [Condition]?
    }

    public var metadata: Metadata
    public var spec: Spec?
    public var status: Status?

    public var addresses: [IPAddress] {
        (status?.podIPs?.map(\.ip) ?? status?.podIP.map { [$0] } ?? []).compactMap { IPAddress($0) }
    }

    /// Condition `Ready`; a manifest without conditions means a pod that is ready.
    public var isReady: Bool {
        guard let conditions = status?.conditions else { return true }
        return conditions.contains { $0.type == "Ready" && $0.status == "True" }
    }

    public var defect: String? {
        for text in status?.podIPs?.map(\.ip) ?? status?.podIP.map({ [$0] }) ?? [] where IPAddress(text) == nil {
            return "status.podIPs: \"\(text)\" is not an IP address"
        }
        return nil
    }
}

public struct Service: ClusterObject {
    public static let kind = ObjectKey.Kind.service

    public struct Port: Hashable, Sendable, Decodable {
        public var name: String?
        public var `protocol`: String?
        public var port: Int
        public var targetPort: PortReference?
        public var nodePort: Int?
    }
    public struct Spec: Hashable, Sendable, Decodable {
        public var type: String?
        public var clusterIP: String?
        public var clusterIPs: [String]?
        public var ports: [Port]?
        public var selector: [String: String]?
        public var publishNotReadyAddresses: Bool?
        public var externalName: String?
    }

    public var metadata: Metadata
    public var spec: Spec?
}

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

        public init(addresses: [String], conditions: Conditions?, hostname: String?, nodeName: String?) {
            self.addresses = addresses
            self.conditions = conditions
            self.hostname = hostname
            self.nodeName = nodeName
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

/// A NetworkPolicy; its rules are kept as they stand until a plugin reads them.
public struct NetworkPolicy: ClusterObject {
    public static let kind = ObjectKey.Kind.networkPolicy
    public var metadata: Metadata
    public var spec: JSONValue?
}
