import HashTreeCollections
import KnetCore

/// Which policies hold for which pods of this node, and which pods of the cluster their rules speak of. It follows the state in
/// proportion to what changes.
struct PolicyIndex {
    /// What holds for a pod of this node.
    struct Profile: Hashable {
        /// In the order in which they are asked.
        var admin: [ObjectKey] = []
        var network: [ObjectKey] = []
        var baseline: [ObjectKey] = []

        var isEmpty: Bool { admin.isEmpty && network.isEmpty && baseline.isEmpty }
    }

    /// A pod of this node, as it was last looked at.
    private struct LocalPod: Equatable {
        var pod: ObjectKey?
        var profiles: [Direction: Profile] = [:]
        var isUnknown = false
    }

    private(set) var policies: [ObjectKey: Policy] = [:]
    /// Keys of NetworkPolicies by namespace; of ClusterNetworkPolicies under "".
    private var policiesOfNamespace: [String: Set<ObjectKey>] = [:]
    private var local: [ObjectKey: LocalPod] = [:]
    /// The attachments of a pod.
    private var attachments: [ObjectKey: Set<ObjectKey>] = [:]
    /// The attachments for which a policy holds.
    private var subjects: [ObjectKey: Set<ObjectKey>] = [:]
    private var podsOfNamespace: [String: Set<ObjectKey>] = [:]
    private(set) var active = ActiveMatchers()

    // MARK: Following

    /// - Returns: the keys whose entries may differ now.
    mutating func follow(_ keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> {
        var affected: Set<ObjectKey> = []
        var (changedPolicies, changedPods, changedAttachments): (Set<ObjectKey>, Set<ObjectKey>, Set<ObjectKey>) =
            ([], [], [])
        for key in keys {
            switch key.kind {
            case .networkPolicy, .clusterNetworkPolicy: changedPolicies.insert(key)
            case .pod:
                changedPods.insert(key)
                notePod(key, isThere: state.pods[key] != nil)
            case .namespace: changedPods.formUnion(podsOfNamespace[key.name] ?? [])
            case .attachment: changedAttachments.insert(key)
            case .local, .service: affected.insert(key)
            default: break
            }
        }
        for key in changedAttachments { noteAttachment(key, in: state) }
        for pod in changedPods { changedAttachments.formUnion(attachments[pod] ?? []) }
        // A namespace that never had a Pod object may have attachments all the same.
        let namespaces = Set(keys.lazy.filter { $0.kind == .namespace }.map(\.name))
        for (key, pod) in local where pod.pod.map({ namespaces.contains($0.namespace) }) == true {
            changedAttachments.insert(key)
        }

        for key in changedPolicies { notePolicy(key, in: state) }
        // Whether a pod that is not known is let go depends on there being policies at all.
        let mustLookAgain =
            changedPolicies.isEmpty
            ? [] : local.filter { $0.value.pod.map { state.pods[$0] == nil } ?? false }.keys.map { $0 }
        changedAttachments.formUnion(mustLookAgain)
        affected.formUnion(changedPods)
        affected.formUnion(changedAttachments)

        var touched = changedPolicies
        for key in changedPolicies {
            for attachment in subjects[key] ?? [] { changedAttachments.insert(attachment) }
            guard let policy = policies[key] else { continue }
            for (attachment, pod) in local where matches(policy, pod, in: state) {
                changedAttachments.insert(attachment)
            }
        }
        for attachment in changedAttachments {
            touched.formUnion(profile(attachment, in: state))
            affected.insert(attachment)
        }
        affected.formUnion(touched)
        for key in touched {
            let policy = (subjects[key] ?? []).isEmpty ? nil : policies[key]
            for matcher in active.set(policy, for: key) { affected.formUnion(pods(matching: matcher, in: state)) }
        }
        return affected
    }

    private mutating func notePod(_ key: ObjectKey, isThere: Bool) {
        if isThere {
            podsOfNamespace[key.namespace, default: []].insert(key)
        } else {
            podsOfNamespace[key.namespace]?.remove(key)
        }
    }

    private mutating func noteAttachment(_ key: ObjectKey, in state: ClusterState) {
        if let old = local[key]?.pod { attachments[old]?.remove(key) }
        guard let attachment = state.attachments[key] else { return }
        var pod = local[key] ?? LocalPod()
        pod.pod = attachment.pod
        local[key] = pod
        if let name = pod.pod { attachments[name, default: []].insert(key) }
    }

    private mutating func notePolicy(_ key: ObjectKey, in state: ClusterState) {
        switch key.kind {
        case .networkPolicy: policies[key] = state.networkPolicies[key].map(NetworkPolicyReader.read)
        default: policies[key] = state.clusterNetworkPolicies[key].map(ClusterNetworkPolicyReader.read)
        }
        if policies[key] == nil {
            policiesOfNamespace[key.namespace]?.remove(key)
            if policiesOfNamespace[key.namespace]?.isEmpty == true { policiesOfNamespace[key.namespace] = nil }
        } else {
            policiesOfNamespace[key.namespace, default: []].insert(key)
        }
    }

    private func matches(_ policy: Policy, _ pod: LocalPod, in state: ClusterState) -> Bool {
        guard let key = pod.pod, let object = state.pods[key] else { return false }
        return policy.subject.matches(PodFacts(object, in: state))
    }

    /// Finds out which policies hold for the pod now.
    /// - Returns: policies that hold for it, or did.
    private mutating func profile(_ attachment: ObjectKey, in state: ClusterState) -> Set<ObjectKey> {
        let old = local[attachment]?.profiles ?? [:]
        let before = old.values.reduce(into: Set<ObjectKey>()) { $0.formUnion($1.all) }
        var now: Set<ObjectKey> = []
        if state.attachments[attachment] == nil {
            local[attachment] = nil
        } else if var pod = local[attachment] {
            pod.profiles = [:]
            pod.isUnknown = false
            if let key = pod.pod {
                if let object = state.pods[key] {
                    let facts = PodFacts(object, in: state)
                    let holding = candidates(key.namespace).compactMap { policies[$0] }
                        .filter { $0.subject.matches(facts) }
                    for direction in Direction.allCases { pod.profiles[direction] = Profile(holding, direction) }
                    now = Set(pod.profiles.values.flatMap(\.all))
                } else {
                    pod.isUnknown = !candidates(key.namespace).isEmpty
                }
            }
            local[attachment] = pod
        }
        // First what comes: so what stays keeps its name.
        for (direction, profile) in local[attachment]?.profiles ?? [:] {
            for thing in profile.things(direction) { active.take(thing) }
        }
        for (direction, profile) in old { for thing in profile.things(direction) { active.drop(thing) } }
        for key in before.subtracting(now) {
            subjects[key]?.remove(attachment)
            if subjects[key]?.isEmpty == true { subjects[key] = nil }
        }
        for key in now { subjects[key, default: []].insert(attachment) }
        return before.union(now)
    }

    /// Policies that may hold for pods of the namespace.
    private func candidates(_ namespace: String) -> Set<ObjectKey> {
        (policiesOfNamespace[namespace] ?? []).union(policiesOfNamespace[""] ?? [])
    }

    private func pods(matching matcher: PodMatcher, in state: ClusterState) -> Set<ObjectKey> {
        let candidates: [ObjectKey] =
            matcher.namespace.map { Array(podsOfNamespace[$0] ?? []) } ?? podsOfNamespace.values.flatMap { Array($0) }
        var found = Set(
            candidates.filter { key in
                state.pods[key].map { matcher.matches(PodFacts($0, in: state)) } ?? false
            })
        for pod in found { found.formUnion(attachments[pod] ?? []) }
        return found.union([.local])
    }

    // MARK: What is known

    /// What holds for a pod of this node; `nil` where it is not known though there are policies that may hold for it.
    func profile(of attachment: ObjectKey, _ direction: Direction) -> Profile? {
        guard let pod = local[attachment] else { return Profile() }
        return pod.isUnknown ? nil : pod.profiles[direction] ?? Profile()
    }

    /// Whether the policy holds for a pod of this node.
    func isInUse(_ policy: ObjectKey) -> Bool { subjects[policy] != nil }

    /// Pods of this node for which the policy holds.
    func subjectCount(_ policy: ObjectKey) -> Int { subjects[policy]?.count ?? 0 }

    /// Policies that hold for the pod, be it on this node or on another.
    func profile(of pod: PodFacts, _ direction: Direction) -> Profile {
        Profile(
            candidates(pod.namespace).compactMap { policies[$0] }.filter { $0.subject.matches(pod) }, direction)
    }
}

extension PolicyIndex.Profile {
    /// What has a name in the kernel because it holds for somebody.
    fileprivate func things(_ direction: Direction) -> [KernelNumbers.Thing] {
        if isEmpty { return [] }
        // Where NetworkPolicies hold, nothing comes to the baseline.
        let tiers = [admin, network.isEmpty ? baseline : []].filter { !$0.isEmpty }
        return [.pod(direction, self)] + tiers.map { .tier(direction, $0) }
    }

    var all: [ObjectKey] { admin + network + baseline }

    fileprivate init(_ holding: [Policy], _ direction: Direction) {
        var (first, last): ([(Int, ObjectKey)], [(Int, ObjectKey)]) = ([], [])
        for policy in holding where policy.rules(direction) != nil {
            switch policy.tier {
            case .admin(let priority): first.append((priority, policy.key))
            case .network: network.append(policy.key)
            case .baseline(let priority): last.append((priority, policy.key))
            }
        }
        admin = first.sorted { $0 < $1 }.map(\.1)
        baseline = last.sorted { $0 < $1 }.map(\.1)
        network.sort()
    }
}
