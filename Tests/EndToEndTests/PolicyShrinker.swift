import KnetCore

/// Makes a case as small as it can be while something in it is wrong.
enum PolicyShrinker {
    /// So long it may try.
    private static let patience = Duration.seconds(120)

    /// - Parameter mismatch: what is wrong with a world; `nil` where nothing is.
    static func shrink(
        _ world: PolicyWorld, _ found: PolicyStage.Mismatch,
        mismatch: (PolicyWorld) throws -> PolicyStage.Mismatch?
    ) rethrows -> (world: PolicyWorld, mismatch: PolicyStage.Mismatch) {
        var (smallest, wrong) = (world, found)
        let deadline = ContinuousClock.now + patience
        var isSmaller = true
        while isSmaller {
            isSmaller = false
            for smaller in reductions(of: smallest) where ContinuousClock.now < deadline {
                guard let left = try mismatch(smaller) else { continue }
                (smallest, wrong, isSmaller) = (smaller, left, true)
                break
            }
        }
        return (smallest, wrong)
    }

    /// Each world that has one part less: first whole policies, then rules, then what is in them.
    static func reductions(of world: PolicyWorld) -> [PolicyWorld] {
        var all: [PolicyWorld] = []
        for index in world.policies.indices {
            var smaller = world
            smaller.policies.remove(at: index)
            all.append(smaller)
        }
        for index in world.policies.indices {
            guard case .object(var members) = world.policies[index], let spec = members["spec"] else { continue }
            let isCluster = members["kind"]?.string == "ClusterNetworkPolicy"
            for reduced in reductions(of: spec, key: "spec", isCluster: isCluster) {
                members["spec"] = reduced
                var smaller = world
                smaller.policies[index] = .object(members)
                all.append(smaller)
            }
        }
        return all
    }

    /// Lists that may become empty without that meaning everything, or nothing that the API knows.
    private static let emptied: Set = ["ingress", "egress"]
    /// Members that a policy may do without. Peers are among them in a NetworkPolicy alone.
    private static let optional: Set = ["ports", "protocols", "except", "matchLabels", "matchExpressions", "endPort"]

    private static func reductions(of value: JSONValue, key: String, isCluster: Bool) -> [JSONValue] {
        switch value {
        case .array(let elements):
            var all: [JSONValue] = []
            for index in elements.indices where elements.count > 1 || emptied.contains(key) {
                var rest = elements
                rest.remove(at: index)
                all.append(.array(rest))
            }
            for (index, element) in elements.enumerated() {
                for reduced in reductions(of: element, key: key, isCluster: isCluster) {
                    var changed = elements
                    changed[index] = reduced
                    all.append(.array(changed))
                }
            }
            return all
        case .object(let members):
            return members.sorted { $0.key < $1.key }.flatMap { name, member -> [JSONValue] in
                var all: [JSONValue] = []
                var changed = members
                if optional.contains(name) || (!isCluster && ["from", "to"].contains(name)) {
                    changed[name] = nil
                    all.append(.object(changed))
                }
                for reduced in reductions(of: member, key: name, isCluster: isCluster) {
                    changed[name] = reduced
                    all.append(.object(changed))
                }
                return all
            }
        default: return []
        }
    }
}
