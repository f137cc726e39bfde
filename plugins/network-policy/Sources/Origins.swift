import KnetCore

/// What the counters of the table stand for.
struct Origins {
    struct Origin {
        let direction: Direction
        /// Policies that have a part in it.
        let policies: [String]
        /// The rule; `nil` where none of the policies admitted a packet.
        var rule: String?
        let action: Policy.Action

        /// For people.
        var reason: String {
            let names = policies.joined(separator: " ")
            return rule.map { "\(names) \($0)" } ?? "admitted by none of: \(names)"
        }
    }

    private(set) var known: [String: Origin] = [:]

    init(_ index: PolicyIndex) {
        for policy in index.policies.values {
            guard let number = index.active.numbers[.policy(policy.key)] else { continue }
            for direction in Direction.allCases {
                for (position, rule) in (policy.rules(direction) ?? []).enumerated() {
                    known[PolicyTable.counter(number, direction, position)] = Origin(
                        direction: direction, policies: [policy.title], rule: rule.title, action: rule.action)
                }
            }
        }
        for (thing, _) in index.active.numbers.things {
            guard case .pod(let direction, let profile) = thing,
                let name = PolicyTable.podChain(profile, direction, index.active.numbers)
            else { continue }
            known[name] = Origin(
                direction: direction, policies: profile.network.map { index.policies[$0]?.title ?? $0.name },
                action: .deny)
        }
    }

    /// Why the counter's packets were dropped, for people.
    func reason(_ counter: String) -> String {
        switch counter {
        case PolicyTable.unknownChain: "the pod is not known"
        case PolicyTable.spoofed: "not from the pod's own address"
        default: known[counter]?.reason ?? "a rule that is gone (\(counter))"
        }
    }
}
