import HashTreeCollections
import KnetCore

/// A label selector, made ready (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/).
struct LabelMatcher: Hashable, Sendable {
    enum Requirement: Hashable, Sendable {
        /// The label has one of these values, which are sorted.
        case oneOf(String, [String])
        /// It has none of them, or is not there.
        case noneOf(String, [String])
        case exists(String)
        case absent(String)

        fileprivate func holds(_ labels: [String: String]) -> Bool {
            switch self {
            case .oneOf(let key, let values): labels[key].map(values.contains) ?? false
            case .noneOf(let key, let values): labels[key].map { !values.contains($0) } ?? true
            case .exists(let key): labels[key] != nil
            case .absent(let key): labels[key] == nil
            }
        }
    }

    /// Without repetition, in a fixed order: selectors that mean the same by the same words are equal.
    let requirements: [Requirement]
    /// What is wrong; such requirements are left out of the others.
    let problems: [String]

    static let everything = LabelMatcher(LabelSelector())

    init(_ selector: LabelSelector?) {
        var requirements = (selector?.matchLabels ?? [:]).map { Requirement.oneOf($0.key, [$0.value]) }
        var problems: [String] = []
        for (index, expression) in (selector?.matchExpressions ?? []).enumerated() {
            let values = Set(expression.values ?? []).sorted()
            switch (expression.operator, values.isEmpty) {
            case ("In", false): requirements.append(.oneOf(expression.key, values))
            case ("NotIn", false): requirements.append(.noneOf(expression.key, values))
            case ("Exists", true): requirements.append(.exists(expression.key))
            case ("DoesNotExist", true): requirements.append(.absent(expression.key))
            case ("In", _), ("NotIn", _):
                problems.append("matchExpressions[\(index)].values: found none, \(expression.operator) needs some")
            case ("Exists", _), ("DoesNotExist", _):
                problems.append("matchExpressions[\(index)].values: \(expression.operator) has none")
            default:
                problems.append(
                    "matchExpressions[\(index)].operator: found \"\(expression.operator)\", allowed is In, NotIn, Exists, "
                        + "DoesNotExist")
            }
        }
        self.requirements = Set(requirements).sorted { "\($0)" < "\($1)" }
        self.problems = problems
    }

    func matches(_ labels: [String: String]) -> Bool { requirements.allSatisfy { $0.holds(labels) } }

    /// A label that all have which match, with its value; `nil` where there is none.
    var hint: (key: String, value: String)? {
        for case .oneOf(let key, let values) in requirements where values.count == 1 { return (key, values[0]) }
        return nil
    }

    /// The value that a label must have.
    func value(of label: String) -> String? {
        for case .oneOf(label, let values) in requirements where values.count == 1 { return values[0] }
        return nil
    }
}

extension LabelMatcher: CustomStringConvertible {
    /// As `kubectl --selector` has it.
    var description: String {
        requirements.map { requirement in
            switch requirement {
            case .oneOf(let key, let values):
                values.count == 1 ? "\(key)=\(values[0])" : "\(key) in (\(values.joined(separator: ",")))"
            case .noneOf(let key, let values): "\(key) notin (\(values.joined(separator: ",")))"
            case .exists(let key): key
            case .absent(let key): "!\(key)"
            }
        }.joined(separator: ",")
    }
}

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
