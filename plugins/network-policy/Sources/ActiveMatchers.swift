import KnetCore

/// What rules in the kernel speak of: selectors, named ports, ranges, domain names.
struct ActiveMatchers {
    private(set) var numbers = KernelNumbers()
    private var wanted: [ObjectKey: Policy] = [:]
    private(set) var namedPorts: [NamedPort: UInt64] = [:]
    private(set) var domains: [String: UInt64] = [:]

    /// By a label that their pods have, in their namespace or in all.
    private struct Place: Hashable {
        var namespace: String?
        var key: String?
        var value: String?
    }

    private var places: [Place: [PodMatcher: UInt64]] = [:]

    /// Takes what the policy speaks of in the place of what it spoke of before.
    /// - Returns: selectors whose pods have to be looked at: they came or went.
    mutating func set(_ policy: Policy?, for key: ObjectKey) -> Set<PodMatcher> {
        let old = wanted[key]
        if old == policy { return [] }
        wanted[key] = policy
        // First what comes: so what stays keeps its number.
        let come = (policy?.things ?? []).filter { numbers.take($0) }
        for thing in come { note(thing, numbers[thing]) }
        let gone = (old?.things ?? []).filter { numbers.drop($0) }
        for thing in gone { note(thing, nil) }
        return (come + gone).reduce(into: []) { changed, thing in
            switch thing {
            case .pods(let matcher): changed.insert(matcher)
            // Any pod may have a port of the name.
            case .port: changed.insert(.all)
            default: break
            }
        }
    }

    /// Counts a use of something else that has a name in the kernel.
    mutating func take(_ thing: KernelNumbers.Thing) { numbers.take(thing) }
    mutating func drop(_ thing: KernelNumbers.Thing) { numbers.drop(thing) }

    private mutating func note(_ thing: KernelNumbers.Thing, _ number: UInt64?) {
        switch thing {
        case .pods(let matcher):
            let hint = matcher.pods.hint
            let place = Place(namespace: matcher.namespace, key: hint?.key, value: hint?.value)
            places[place, default: [:]][matcher] = number
            if places[place]?.isEmpty == true { places[place] = nil }
        case .port(let port): namedPorts[port] = number
        case .domain(let pattern): domains[pattern] = number
        default: break
        }
    }

    /// Numbers of the selectors that match the pod.
    func matchers(of pod: PodFacts) -> [UInt64] {
        var found: [UInt64] = []
        for namespace in [pod.namespace, nil] as [String?] {
            func look(_ key: String?, _ value: String?) {
                for (matcher, number) in places[Place(namespace: namespace, key: key, value: value)] ?? [:]
                where matcher.matches(pod) {
                    found.append(number)
                }
            }
            look(nil, nil)
            for (key, value) in pod.labels { look(key, value) }
        }
        return found
    }
}

extension PodMatcher {
    /// Every pod.
    static let all = PodMatcher(namespaces: .matching(.everything), pods: .everything)
}

extension Policy {
    /// What has a name in the kernel because of it.
    fileprivate var things: [KernelNumbers.Thing] {
        var things: [KernelNumbers.Thing] = [.policy(key)]
        for rule in allRules {
            for matcher in rule.peers.pods { things.append(.pods(matcher)) }
            for port in rule.ports.named { things.append(.port(port)) }
            for domain in rule.peers.domains { things.append(.domain(domain)) }
            if !rule.peers.ranges.isEmpty { things.append(.ranges(rule.peers.ranges)) }
            if !rule.ports.spans.isEmpty { things.append(.ports(PortSpan.disjoint(rule.ports.spans))) }
        }
        return things
    }
}
