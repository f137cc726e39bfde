/// Namespace and name; the namespace is empty for what belongs to the cluster.
struct ObjectKey: Hashable, Sendable, Comparable {
    let namespace: String
    let name: String

    /// The end of the object's key in etcd, by which lists are sorted.
    var path: String { namespace.isEmpty ? name : "\(namespace)/\(name)" }

    static func < (left: ObjectKey, right: ObjectKey) -> Bool {
        left.namespace == right.namespace ? left.name < right.name : left.path < right.path
    }
}
