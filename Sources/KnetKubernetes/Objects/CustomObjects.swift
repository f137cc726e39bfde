import KnetCore

extension ClusterNetworkPolicy {
    /// A policy as the server told it, reduced. One that cannot be read, since its definition is of another version, is told with
    /// that as its defect: the others must not wait for it.
    static func told(_ value: JSONValue) throws -> ClusterNetworkPolicy {
        var policy: ClusterNetworkPolicy
        do {
            policy = try value.decode()
        } catch {
            guard let name = value["metadata"]?["name"]?.string else { throw error }
            return ClusterNetworkPolicy(metadata: Metadata(name: name), unreadable: "\(error)")
        }
        policy.metadata.labels = nil
        let own = (policy.metadata.annotations ?? [:]).filter { $0.key.hasPrefix(Metadata.ownAnnotations) }
        policy.metadata.annotations = own.isEmpty ? nil : own
        return policy
    }
}
