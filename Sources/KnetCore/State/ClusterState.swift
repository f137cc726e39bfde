public import HashTreeCollections

/// The cluster as this node knows it: an immutable value; copies share what did not change.
public struct ClusterState: Sendable {
    /// Counts the changes since the start of the process.
    public internal(set) var version: UInt64 = 0
    /// The kinds of which the source has told everything that it holds.
    public internal(set) var told: Set<ObjectKey.Kind> = []
    /// The kinds that are as they were saved by an earlier process, until the source tells them.
    public internal(set) var saved: Set<ObjectKey.Kind> = []

    public internal(set) var local: LocalNode?
    public internal(set) var attachments: TreeDictionary<ObjectKey, Attachment> = [:]
    public internal(set) var nodes: TreeDictionary<ObjectKey, Node> = [:]
    public internal(set) var namespaces: TreeDictionary<ObjectKey, Namespace> = [:]
    public internal(set) var pods: TreeDictionary<ObjectKey, Pod> = [:]
    public internal(set) var services: TreeDictionary<ObjectKey, Service> = [:]
    public internal(set) var endpointSlices: TreeDictionary<ObjectKey, EndpointSlice> = [:]
    public internal(set) var networkPolicies: TreeDictionary<ObjectKey, NetworkPolicy> = [:]
    public internal(set) var clusterNetworkPolicies: TreeDictionary<ObjectKey, ClusterNetworkPolicy> = [:]
    /// The EndpointSlices of each Service, by the Service's key.
    public private(set) var slicesOfService: TreeDictionary<ObjectKey, Set<ObjectKey>> = [:]

    public init() {}

    /// The Service's slices, in the order of their names.
    public func slices(of service: ObjectKey) -> [EndpointSlice] {
        (slicesOfService[service] ?? []).sorted().compactMap { endpointSlices[$0] }
    }

    /// The Service's endpoints that are ready; else those that serve while they end, as the service proxy chooses.
    public func usableEndpoints(of service: ObjectKey) -> [EndpointSlice.Endpoint] {
        let endpoints = slices(of: service).flatMap { $0.endpoints ?? [] }
        let ready = endpoints.filter { $0.conditions?.ready ?? true }
        if !ready.isEmpty { return ready }
        return endpoints.filter { $0.conditions?.serving == true && $0.conditions?.terminating == true }
    }

    func service(ofSlice key: ObjectKey) -> ObjectKey? { endpointSlices[key]?.service }

    private mutating func set(_ slice: EndpointSlice?, _ key: ObjectKey) {
        let (old, new) = (endpointSlices[key]?.service, slice?.service)
        if old != new {
            if let old { slicesOfService[old, default: []].remove(key) }
            if let old, slicesOfService[old]?.isEmpty == true { slicesOfService[old] = nil }
            if let new { slicesOfService[new, default: []].insert(key) }
        }
        endpointSlices[key] = slice
    }

    /// Whether all of these kinds are known as they are. Nothing that depends on them is removed from the kernel before.
    public func isComplete(_ kinds: Set<ObjectKey.Kind>) -> Bool { kinds.isSubset(of: told) }

    /// Whether all of these kinds are known, be it as they once were.
    public func isUsable(_ kinds: Set<ObjectKey.Kind>) -> Bool { kinds.isSubset(of: told.union(saved)) }

    /// The key of everything that is held.
    public var keys: [ObjectKey] {
        var all: [ObjectKey] = local == nil ? [] : [.local]
        all += attachments.keys
        for kind in ObjectKey.clusterKinds { all += keys(of: kind) }
        return all
    }
}

/// One object as a source tells it.
public indirect enum AnyClusterObject: Hashable, Sendable {
    case node(Node)
    case namespace(Namespace)
    case pod(Pod)
    case service(Service)
    case endpointSlice(EndpointSlice)
    case networkPolicy(NetworkPolicy)
    case clusterNetworkPolicy(ClusterNetworkPolicy)

    /// Reads an object of a kind that a source has.
    public init(_ document: JSONValue, _ kind: ObjectKey.Kind) throws {
        switch kind {
        case .node: self = .node(try document.decode())
        case .namespace: self = .namespace(try document.decode())
        case .pod: self = .pod(try document.decode())
        case .service: self = .service(try document.decode())
        case .endpointSlice: self = .endpointSlice(try document.decode())
        case .networkPolicy: self = .networkPolicy(try document.decode())
        case .clusterNetworkPolicy: self = .clusterNetworkPolicy(try document.decode())
        case .local, .attachment: preconditionFailure("\(kind) is not an object of the cluster")
        }
    }

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
        case .clusterNetworkPolicy(let object): object
        }
    }
}

extension ClusterState {
    public func object(_ key: ObjectKey) -> AnyClusterObject? {
        switch key.kind {
        case .node: nodes[key].map(AnyClusterObject.node)
        case .namespace: namespaces[key].map(AnyClusterObject.namespace)
        case .pod: pods[key].map(AnyClusterObject.pod)
        case .service: services[key].map(AnyClusterObject.service)
        case .endpointSlice: endpointSlices[key].map(AnyClusterObject.endpointSlice)
        case .networkPolicy: networkPolicies[key].map(AnyClusterObject.networkPolicy)
        case .clusterNetworkPolicy: clusterNetworkPolicies[key].map(AnyClusterObject.clusterNetworkPolicy)
        case .attachment, .local: nil
        }
    }

    public func count(of kind: ObjectKey.Kind) -> Int {
        switch kind {
        case .node: nodes.count
        case .namespace: namespaces.count
        case .pod: pods.count
        case .service: services.count
        case .endpointSlice: endpointSlices.count
        case .networkPolicy: networkPolicies.count
        case .clusterNetworkPolicy: clusterNetworkPolicies.count
        case .attachment: attachments.count
        case .local: local == nil ? 0 : 1
        }
    }

    /// The keys of the cluster's objects of a kind.
    public func keys(of kind: ObjectKey.Kind) -> [ObjectKey] {
        switch kind {
        case .node: Array(nodes.keys)
        case .namespace: Array(namespaces.keys)
        case .pod: Array(pods.keys)
        case .service: Array(services.keys)
        case .endpointSlice: Array(endpointSlices.keys)
        case .networkPolicy: Array(networkPolicies.keys)
        case .clusterNetworkPolicy: Array(clusterNetworkPolicies.keys)
        case .attachment, .local: []
        }
    }

    /// Takes in a new or changed object.
    public mutating func set(_ object: AnyClusterObject) {
        switch object {
        case .node(let object): nodes[object.key] = object
        case .namespace(let object): namespaces[object.key] = object
        case .pod(let object): pods[object.key] = object
        case .service(let object): services[object.key] = object
        case .endpointSlice(let object): set(object, object.key)
        case .networkPolicy(let object): networkPolicies[object.key] = object
        case .clusterNetworkPolicy(let object): clusterNetworkPolicies[object.key] = object
        }
    }

    /// Forgets an object; one that is not there is no error.
    public mutating func remove(_ key: ObjectKey) {
        switch key.kind {
        case .node: nodes[key] = nil
        case .namespace: namespaces[key] = nil
        case .pod: pods[key] = nil
        case .service: services[key] = nil
        case .endpointSlice: set(nil, key)
        case .networkPolicy: networkPolicies[key] = nil
        case .clusterNetworkPolicy: clusterNetworkPolicies[key] = nil
        case .attachment: attachments[key] = nil
        case .local: local = nil
        }
    }

    public mutating func set(_ attachment: Attachment) { attachments[.attachment(attachment.id)] = attachment }

    public mutating func set(local: LocalNode?) { self.local = local }
}
