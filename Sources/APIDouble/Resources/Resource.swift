extension APIDouble {
    /// A type of object that the server keeps: what a path names and what its objects call themselves.
    public struct Resource: Hashable, Sendable {
        /// The API group; empty for the core group.
        public let group: String
        public let version: String
        /// The name in paths: `pods`.
        public let plural: String
        public let kind: String
        public let isNamespaced: Bool
        /// Whether there is a subresource `status`, so that writes to the object itself leave its status alone.
        public let hasStatus: Bool
        /// Whether it comes from a CustomResourceDefinition: JSON only, patched by merge patches only.
        public let isCustom: Bool

        public init(
            group: String, version: String, plural: String, kind: String, isNamespaced: Bool = true,
            hasStatus: Bool = false, isCustom: Bool = true
        ) {
            self.group = group
            self.version = version
            self.plural = plural
            self.kind = kind
            self.isNamespaced = isNamespaced
            self.hasStatus = hasStatus
            self.isCustom = isCustom
        }

        /// `v1`, `discovery.k8s.io/v1`.
        public var apiVersion: String { group.isEmpty ? version : "\(group)/\(version)" }

        /// `pods`, `endpointslices.discovery.k8s.io`: what messages call it, and what names it everywhere in this server.
        public var name: String { group.isEmpty ? plural : "\(plural).\(group)" }
    }
}

typealias Resource = APIDouble.Resource

extension APIDouble.Resource {
    public static let nodes = APIDouble.Resource(
        group: "", version: "v1", plural: "nodes", kind: "Node", isNamespaced: false, hasStatus: true, isCustom: false)
    public static let namespaces = APIDouble.Resource(
        group: "", version: "v1", plural: "namespaces", kind: "Namespace", isNamespaced: false, hasStatus: true,
        isCustom: false)
    public static let pods = APIDouble.Resource(
        group: "", version: "v1", plural: "pods", kind: "Pod", hasStatus: true, isCustom: false)
    public static let services = APIDouble.Resource(
        group: "", version: "v1", plural: "services", kind: "Service", hasStatus: true, isCustom: false)
    public static let endpointSlices = APIDouble.Resource(
        group: "discovery.k8s.io", version: "v1", plural: "endpointslices", kind: "EndpointSlice", isCustom: false)
    public static let networkPolicies = APIDouble.Resource(
        group: "networking.k8s.io", version: "v1", plural: "networkpolicies", kind: "NetworkPolicy", isCustom: false)
    /// Leases and events are told as JSON alone: who reads them here asks for that.
    public static let leases = APIDouble.Resource(
        group: "coordination.k8s.io", version: "v1", plural: "leases", kind: "Lease")
    public static let events = APIDouble.Resource(group: "", version: "v1", plural: "events", kind: "Event")
    /// https://network-policy-api.sigs.k8s.io
    public static let clusterNetworkPolicies = APIDouble.Resource(
        group: "policy.networking.k8s.io", version: "v1alpha2", plural: "clusternetworkpolicies",
        kind: "ClusterNetworkPolicy", isNamespaced: false)

    /// What every cluster has.
    public static let builtIn: [APIDouble.Resource] = [
        .nodes, .namespaces, .pods, .services, .endpointSlices, .networkPolicies, .leases, .events,
    ]
}
