import HashTreeCollections
import KnetCore

/// Pods by their labels and those of their namespaces.
struct PodMatcher: Hashable, Sendable, CustomStringConvertible {
    enum Namespaces: Hashable, Sendable {
        case one(String)
        case matching(LabelMatcher)
    }

    let namespaces: Namespaces
    let pods: LabelMatcher

    /// The namespace that all pods are in; `nil` where they may be in several.
    var namespace: String? {
        switch namespaces {
        case .one(let name): name
        case .matching(let matcher): matcher.value(of: nameLabel)
        }
    }

    func matches(_ pod: PodFacts) -> Bool {
        switch namespaces {
        case .one(let name): name == pod.namespace && pods.matches(pod.labels)
        case .matching(let matcher): matcher.matches(pod.namespaceLabels) && pods.matches(pod.labels)
        }
    }

    var problems: [String] {
        guard case .matching(let matcher) = namespaces else { return pods.problems.map { "podSelector.\($0)" } }
        return matcher.problems.map { "namespaceSelector.\($0)" } + pods.problems.map { "podSelector.\($0)" }
    }

    var description: String {
        let pods = "\(pods)".isEmpty ? "all pods" : "pods \(pods)"
        switch namespaces {
        case .one(let name): return "\(pods) in \(name)"
        case .matching(let matcher):
            return "\(pods) in \("\(matcher)".isEmpty ? "all namespaces" : "namespaces \(matcher)")"
        }
    }
}

/// The label that Kubernetes gives every namespace: its name.
let nameLabel = "kubernetes.io/metadata.name"

/// What counts of a pod.
struct PodFacts {
    let namespace: String
    let name: String
    let labels: [String: String]
    let namespaceLabels: [String: String]

    init(_ pod: Pod, in state: ClusterState) {
        self.init(
            namespace: pod.key.namespace, name: pod.key.name, labels: pod.metadata.labels ?? [:], in: state)
    }

    init(namespace: String, name: String, labels: [String: String], in state: ClusterState) {
        self.namespace = namespace
        self.name = name
        self.labels = labels
        // Manifests need not have an object for each namespace; the server has, and sets this label.
        var given = state.namespaces[ObjectKey(.namespace, name: namespace)]?.metadata.labels ?? [:]
        given[nameLabel] = namespace
        namespaceLabels = given
    }
}
