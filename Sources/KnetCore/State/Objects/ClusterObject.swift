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
        case .node, .namespace, .clusterNetworkPolicy, .local, .attachment: false
        }
    }
}

public struct Metadata: Hashable, Sendable, Codable {
    public var name: String
    public var namespace: String?
    public var labels: [String: String]?
    public var annotations: [String: String]?
    /// Whether `deletionTimestamp` is set.
    public var isTerminating = false

    private enum CodingKeys: String, CodingKey {
        case name, namespace, labels, annotations, deletionTimestamp
    }

    public init(
        name: String, namespace: String? = nil, labels: [String: String]? = nil, annotations: [String: String]? = nil
    ) {
        self.name = name
        self.namespace = namespace
        self.labels = labels
        self.annotations = annotations
    }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        name = try container.decode(String.self, forKey: .name)
        namespace = try container.decodeIfPresent(String.self, forKey: .namespace)
        labels = try container.decodeIfPresent([String: String].self, forKey: .labels)
        annotations = try container.decodeIfPresent([String: String].self, forKey: .annotations)
        isTerminating = try container.decodeIfPresent(String.self, forKey: .deletionTimestamp) != nil
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(name, forKey: .name)
        try container.encodeIfPresent(namespace, forKey: .namespace)
        try container.encodeIfPresent(labels, forKey: .labels)
        try container.encodeIfPresent(annotations, forKey: .annotations)
        // Since when is not kept.
        if isTerminating { try container.encode("1970-01-01T00:00:00Z", forKey: .deletionTimestamp) }
    }
}

/// One of the conditions in a Node's or Pod's status.
public struct Condition: Hashable, Sendable, Decodable {
    public static let ready = "Ready"
    public static let networkUnavailable = "NetworkUnavailable"

    public var type: String
    /// `True`, `False` or `Unknown`.
    public var status: String

    public init(type: String, status: String) {
        self.type = type
        self.status = status
    }
}
