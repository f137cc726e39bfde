import FoundationEssentials
import KnetCore
import KnetPlayground
import KnetYAML

/// Policies that somebody wrote by hand.
struct PolicyCase: Sendable, CustomStringConvertible {
    /// What they are for.
    let name: String
    /// A YAML mapping: below `namespace/name` the `spec` of a NetworkPolicy, below a name alone that of a ClusterNetworkPolicy.
    /// `@x/a4` and `@x/a6` stand for the addresses of a pod, `$x` and `$a` for the selectors of a namespace and of a pod by their usual
    /// labels.
    let policies: String
    /// Of the 648 flows, so many are allowed; counted by hand, where given.
    let allowed: Int?
    /// Labels that are not the usual ones.
    let podLabels: [String: [String: String]]
    let namespaceLabels: [String: [String: String]]

    init(
        _ name: String, _ policies: String, allowed: Int? = nil, pods: [String: [String: String]] = [:],
        namespaces: [String: [String: String]] = [:]
    ) {
        self.name = name
        self.policies = policies
        self.allowed = allowed
        podLabels = pods
        namespaceLabels = namespaces
    }

    var description: String { name }

    static let all = networkPolicies + faultyPolicies + clusterPolicies

    /// The world with these policies and labels.
    func world(_ base: PolicyWorld) throws -> PolicyWorld {
        var text = policies
        for pod in PolicyWorld.pods {
            for family in IPFamily.allCases {
                guard let address = base.address(of: pod, family) else { continue }
                text = text.replacing("@\(pod)\(family.rawValue)", with: "\(address)")
            }
        }
        for namespace in PolicyWorld.namespaces {
            text = text.replacing("$\(namespace)", with: "{matchLabels: {ns: \(namespace)}}")
        }
        for name in PolicyWorld.names { text = text.replacing("$\(name)", with: "{matchLabels: {pod: \(name)}}") }
        let documents = YAMLDocuments(parsing: Data(text.utf8))
        if let error = documents.error { throw Playground.Failure("\(name): \(error)") }
        var world = base
        world.podLabels.merge(podLabels) { $1 }
        world.namespaceLabels.merge(namespaceLabels) { $1 }
        let specs = documents.values.first?.object ?? [:]
        world.policies = specs.sorted { $0.key < $1.key }.map { Self.policy($0.key, $0.value) }
        return world
    }

    private static func policy(_ name: String, _ spec: JSONValue) -> JSONValue {
        guard name.contains("/") else {
            return [
                "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
                "metadata": ["name": .string(name)], "spec": spec,
            ]
        }
        let parts = PolicyWorld.parts(of: name)
        return [
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": ["name": .string(parts.name), "namespace": .string(parts.namespace)], "spec": spec,
        ]
    }
}
