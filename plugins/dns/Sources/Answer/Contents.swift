import HashTreeCollections
import KnetCore

/// All that an answer is made of but what other servers said: a value that is replaced as a whole.
struct Contents: Sendable {
    var zone: Zone
    /// Pods of this node, by address.
    var clients: TreeDictionary<IPAddress, Client> = [:]
    /// Domains in which the node itself looks for names; the kubelet gives them to pods.
    var hostDomains: [DomainName] = []
    /// Whether `10-42-0-7.default.pod.cluster.local` is answered from the name alone.
    var trustsPodNames = false
    /// Seconds.
    var ttl: UInt32 = 5
}

/// A pod that asks.
struct Client: Hashable, Sendable {
    /// For people: `namespace/name`.
    let title: String
    /// In each of the cluster's domains, where the pod's resolver looks for a name one after the other: its namespace's
    /// Services first. The node's domains come after these, and those that the pod asks for itself.
    let search: [[DomainName]]
    /// Domains of the pod's own (`spec.dnsConfig.searches`).
    let ownDomains: [DomainName]

    init(title: String, namespace: String, domains: [DomainName], ownDomains: [DomainName] = []) {
        self.title = title
        self.ownDomains = ownDomains
        search = domains.compactMap { domain in
            guard let services = domain.child("svc"), let own = services.child(namespace) else { return nil }
            return [own, services, domain]
        }
    }
}
