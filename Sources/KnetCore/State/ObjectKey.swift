/// Which of the cluster's objects is meant.
public struct ObjectKey: Hashable, Sendable, Comparable, CustomStringConvertible {
    public enum Kind: String, Sendable, CaseIterable {
        case node = "Node"
        case namespace = "Namespace"
        case pod = "Pod"
        case service = "Service"
        case endpointSlice = "EndpointSlice"
        case networkPolicy = "NetworkPolicy"
        case clusterNetworkPolicy = "ClusterNetworkPolicy"
        /// What this node knows of itself; not an object of the cluster.
        case local = "Local"
        /// A pod attached to this node by CNI; not an object of the cluster.
        case attachment = "Attachment"
    }

    /// Kinds of the cluster's objects.
    public static let clusterKinds: Set<Kind> = [
        .node, .namespace, .pod, .service, .endpointSlice, .networkPolicy, .clusterNetworkPolicy,
    ]

    public let kind: Kind
    /// Empty for what has no namespace.
    public let namespace: String
    public let name: String

    public init(_ kind: Kind, namespace: String = "", name: String) {
        self.kind = kind
        self.namespace = namespace
        self.name = name
    }

    public static let local = ObjectKey(.local, name: "")
    public static func node(_ name: String) -> ObjectKey { ObjectKey(.node, name: name) }
    public static func attachment(_ id: AttachmentID) -> ObjectKey { ObjectKey(.attachment, name: id.description) }

    public var description: String {
        namespace.isEmpty ? "\(kind.rawValue)/\(name)" : "\(kind.rawValue)/\(namespace)/\(name)"
    }

    public static func < (a: ObjectKey, b: ObjectKey) -> Bool {
        (a.kind.rawValue, a.namespace, a.name) < (b.kind.rawValue, b.namespace, b.name)
    }
}
