public import HashTreeCollections

/// The cluster as this node knows it: an immutable value; copies share what did not change.
public struct ClusterState: Sendable {
    /// Counts the changes since the start of the process.
    public internal(set) var version: UInt64 = 0
    /// Whether the source has told everything that it holds. Nothing is removed from the kernel before.
    public internal(set) var isComplete = false

    public internal(set) var local: LocalNode?
    public internal(set) var attachments: TreeDictionary<ObjectKey, Attachment> = [:]
    public internal(set) var nodes: TreeDictionary<ObjectKey, Node> = [:]
    public internal(set) var namespaces: TreeDictionary<ObjectKey, Namespace> = [:]
    public internal(set) var pods: TreeDictionary<ObjectKey, Pod> = [:]
    public internal(set) var services: TreeDictionary<ObjectKey, Service> = [:]
    public internal(set) var endpointSlices: TreeDictionary<ObjectKey, EndpointSlice> = [:]
    public internal(set) var networkPolicies: TreeDictionary<ObjectKey, NetworkPolicy> = [:]

    public init() {}

    /// The key of everything that is held.
    public var keys: [ObjectKey] {
        (local == nil ? [] : [.local]) + Array(attachments.keys) + Array(nodes.keys) + Array(namespaces.keys)
            + Array(pods.keys) + Array(services.keys) + Array(endpointSlices.keys) + Array(networkPolicies.keys)
    }
}

/// One object as a source tells it.
public enum AnyClusterObject: Hashable, Sendable {
    case node(Node)
    case namespace(Namespace)
    case pod(Pod)
    case service(Service)
    case endpointSlice(EndpointSlice)
    case networkPolicy(NetworkPolicy)

    public var key: ObjectKey { object.key }

    /// What makes the object unusable; `nil` where nothing does.
    public var defect: String? { object.defect }

    private var object: any ClusterObject {
        switch self {
        case .node(let object): object
        case .namespace(let object): object
        case .pod(let object): object
        case .service(let object): object
        case .endpointSlice(let object): object
        case .networkPolicy(let object): object
        }
    }
}

extension ClusterState {
    /// Takes in a new or changed object.
    public mutating func set(_ object: AnyClusterObject) {
        switch object {
        case .node(let object): nodes[object.key] = object
        case .namespace(let object): namespaces[object.key] = object
        case .pod(let object): pods[object.key] = object
        case .service(let object): services[object.key] = object
        case .endpointSlice(let object): endpointSlices[object.key] = object
        case .networkPolicy(let object): networkPolicies[object.key] = object
        }
    }

    /// Forgets an object; one that is not there is no error.
    public mutating func remove(_ key: ObjectKey) {
        switch key.kind {
        case .node: nodes[key] = nil
        case .namespace: namespaces[key] = nil
        case .pod: pods[key] = nil
        case .service: services[key] = nil
        case .endpointSlice: endpointSlices[key] = nil
        case .networkPolicy: networkPolicies[key] = nil
        case .attachment: attachments[key] = nil
        case .local: local = nil
        }
    }

    public mutating func set(_ attachment: Attachment) { attachments[.attachment(attachment.id)] = attachment }

    public mutating func set(local: LocalNode?) { self.local = local }
}
