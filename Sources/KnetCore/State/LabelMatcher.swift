/// A label selector, made ready (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/).
public struct LabelMatcher: Hashable, Sendable {
    public enum Requirement: Hashable, Sendable {
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
    public let requirements: [Requirement]
    /// What is wrong; such requirements are left out of the others.
    public let problems: [String]

    public static let everything = LabelMatcher(LabelSelector())

    public init(_ selector: LabelSelector?) {
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

    public func matches(_ labels: [String: String]) -> Bool { requirements.allSatisfy { $0.holds(labels) } }

    /// A label that all have which match, with its value; `nil` where there is none.
    public var hint: (key: String, value: String)? {
        for case .oneOf(let key, let values) in requirements where values.count == 1 { return (key, values[0]) }
        return nil
    }

    /// The value that a label must have.
    public func value(of label: String) -> String? {
        for case .oneOf(label, let values) in requirements where values.count == 1 { return values[0] }
        return nil
    }
}

extension LabelMatcher: CustomStringConvertible {
    /// As `kubectl --selector` has it.
    public var description: String {
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

extension LabelSelector {
    /// As the configuration has it.
    public static let shape = Shape.object([
        Field("matchLabels", .map(of: value), default: [:], "Labels with their values."),
        Field(
            "matchExpressions",
            .list(
                of: .object([
                    Field("key", .text(.any(what: "a label")), isRequired: true, "The label."),
                    Field(
                        "operator", .text(.oneOf(["In", "NotIn", "Exists", "DoesNotExist"])), isRequired: true,
                        "How it is compared."),
                    Field("values", .list(of: value), default: [], "With what."),
                ])), default: [], "Requirements beyond that."),
    ])

    /// A label's value may be empty.
    private static let value = Shape.either([.text(.any(what: "a label's value")), .text(.oneOf([""]))])
}
