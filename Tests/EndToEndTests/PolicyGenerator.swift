import KnetCore
import TestSupport

/// Makes policies and changes of a small vocabulary, so that they concern the nine pods and each other. Now and then a part is one that
/// Kubernetes would refuse.
struct PolicyGenerator {
    private var random: SeededGenerator
    private var created = 0

    init(seed: UInt64) { random = SeededGenerator(seed: seed) }

    private mutating func number(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random) }
    private mutating func pick<Element>(_ all: [Element]) -> Element { all[number(0...all.count - 1)] }
    private mutating func chance(_ one: Int) -> Bool { number(1...one) == 1 }

    // MARK: Worlds

    /// One to six NetworkPolicies, up to three ClusterNetworkPolicies, and a few labels that are not the usual ones.
    mutating func world(_ base: PolicyWorld) -> PolicyWorld {
        var world = base
        for _ in 0..<number(0...3) { changeLabels(&world) }
        for _ in 0..<number(1...6) { world.policies.append(networkPolicy(world)) }
        for _ in 0..<max(0, number(-1...3)) { world.policies.append(clusterPolicy(world)) }
        return world
    }

    /// The world after one to three changes.
    mutating func changed(_ old: PolicyWorld) -> PolicyWorld {
        var world = old
        for _ in 0..<number(1...3) {
            switch number(0...9) {
            case 0...3: changeLabels(&world)
            case 4...5 where world.policies.count < 9: world.policies.append(policy(world))
            case 6...7 where world.policies.count > 1: world.policies.remove(at: number(0...world.policies.count - 1))
            default: replacePolicy(&world)
            }
        }
        return world
    }

    private mutating func changeLabels(_ world: inout PolicyWorld) {
        if chance(3) {
            let namespace = pick(PolicyWorld.namespaces)
            var labels = ["ns": pick(PolicyWorld.namespaces)]
            if chance(2) { labels["team"] = pick(["red", "blue"]) }
            world.namespaceLabels[namespace] = chance(5) ? [:] : labels
        } else {
            let pod = pick(PolicyWorld.pods)
            var labels = ["pod": pick(PolicyWorld.names)]
            if chance(2) { labels["role"] = pick(["web", "client"]) }
            world.podLabels[pod] = chance(5) ? [:] : labels
        }
    }

    /// Another specification under a name that is there, where the kinds agree.
    private mutating func replacePolicy(_ world: inout PolicyWorld) {
        guard !world.policies.isEmpty else {
            world.policies.append(policy(world))
            return
        }
        let index = number(0...world.policies.count - 1)
        let fresh = policy(world)
        var members = fresh.object ?? [:]
        if fresh["kind"] == world.policies[index]["kind"] { members["metadata"] = world.policies[index]["metadata"] }
        world.policies[index] = .object(members)
    }

    private mutating func policy(_ world: PolicyWorld) -> JSONValue {
        chance(4) ? clusterPolicy(world) : networkPolicy(world)
    }

    private mutating func newName(_ prefix: String) -> JSONValue {
        created += 1
        return .string("\(prefix)\(created)")
    }

    // MARK: NetworkPolicy

    private mutating func networkPolicy(_ world: PolicyWorld) -> JSONValue {
        var spec: [String: JSONValue] = ["podSelector": subjectSelector()]
        let sides = pick([["Ingress"], ["Egress"], ["Ingress", "Egress"], []])
        if !sides.isEmpty { spec["policyTypes"] = .array(sides.map { .string($0) }) }
        if sides.contains("Ingress") || chance(3) { spec["ingress"] = rules("from", world) }
        if sides.contains("Egress") || chance(6) { spec["egress"] = rules("to", world) }
        return [
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": ["name": newName("p"), "namespace": .string(pick(PolicyWorld.namespaces))],
            "spec": .object(spec),
        ]
    }

    private mutating func subjectSelector() -> JSONValue {
        chance(2) ? [:] : podSelector(mayBeFaulty: true)
    }

    private mutating func rules(_ peers: String, _ world: PolicyWorld) -> JSONValue {
        .array(
            (0..<number(0...2)).map { _ -> JSONValue in
                var rule: [String: JSONValue] = [:]
                if !chance(6) { rule[peers] = .array((0..<number(1...2)).map { _ in peer(world) }) }
                if chance(2) { rule["ports"] = .array((0..<number(1...2)).map { _ in port() }) }
                return .object(rule)
            })
    }

    private mutating func peer(_ world: PolicyWorld) -> JSONValue {
        switch number(0...7) {
        case 0...1: return ["podSelector": podSelector(mayBeFaulty: true)]
        case 2...3: return ["namespaceSelector": namespaceSelector(mayBeFaulty: true)]
        case 4...5: return ["podSelector": podSelector(), "namespaceSelector": namespaceSelector()]
        default: return ["ipBlock": block(world)]
        }
    }

    private mutating func block(_ world: PolicyWorld) -> JSONValue {
        let family = pick(IPFamily.allCases)
        var block: [String: JSONValue] = ["cidr": .string(range(family, world))]
        // One that is not inside is a fault; most are.
        if chance(2) { block["except"] = [.string(range(family, world, isNarrow: true))] }
        if chance(25) { block["cidr"] = "10.42.0.0/33" }
        return .object(block)
    }

    private mutating func range(_ family: IPFamily, _ world: PolicyWorld, isNarrow: Bool = false) -> String {
        guard let address = world.address(of: pick(PolicyWorld.pods), family) else { return "" }
        let lengths = family == .v4 ? [32, 30, 24, 16, 0] : [128, 126, 64, 48, 0]
        let length = isNarrow ? pick(Array(lengths.prefix(3))) : pick(lengths)
        return CIDR(containing: address, prefixLength: length).description
    }

    private mutating func port() -> JSONValue {
        var port: [String: JSONValue] = [:]
        if !chance(3) { port["protocol"] = .string(pick(["TCP", "UDP", "UDP", "SCTP"])) }
        switch number(0...7) {
        case 0...2: port["port"] = .integer(pick(PolicyFlow.ports))
        case 3:
            port["port"] = .integer(pick([1, 80, 81]))
            port["endPort"] = .integer(pick([80, 81, 65_535]))
        case 4...5: port["port"] = .string(pick(["web", "names", "serve-80", "serve-81-udp", "nobody"]))
        default: break
        }
        return .object(port)
    }

    // MARK: ClusterNetworkPolicy

    private mutating func clusterPolicy(_ world: PolicyWorld) -> JSONValue {
        var spec: [String: JSONValue] = [
            "tier": .string(pick(["Admin", "Baseline"])), "priority": .integer(pick([0, 5, 10, 1_000])),
            "subject": group(),
        ]
        let sides = pick([["ingress"], ["egress"], ["ingress", "egress"]])
        for side in sides {
            spec[side] = .array((0..<number(1...3)).map { _ in clusterRule(isEgress: side == "egress", world) })
        }
        return [
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": ["name": newName("c")], "spec": .object(spec),
        ]
    }

    private mutating func clusterRule(isEgress: Bool, _ world: PolicyWorld) -> JSONValue {
        var rule: [String: JSONValue] = ["action": .string(pick(["Accept", "Deny", "Pass"]))]
        var hasNetworks = false
        let peers = (0..<number(1...2)).map { _ -> JSONValue in
            guard isEgress, chance(4) else { return group() }
            hasNetworks = true
            return ["networks": [.string(range(pick(IPFamily.allCases), world))]]
        }
        rule[isEgress ? "to" : "from"] = .array(peers)
        // The API has no names of ports where a network is a peer.
        let names = hasNetworks ? [] : ["web", "serve-80", "names"]
        if chance(2) { rule["protocols"] = .array((0..<number(1...2)).map { _ in clusterProtocol(names) }) }
        return .object(rule)
    }

    private mutating func group() -> JSONValue {
        if chance(2) { return ["namespaces": namespaceSelector()] }
        return ["pods": ["namespaceSelector": namespaceSelector(), "podSelector": podSelector()]]
    }

    private mutating func clusterProtocol(_ names: [String]) -> JSONValue {
        if !names.isEmpty, chance(4) { return ["destinationNamedPort": .string(pick(names))] }
        let port: JSONValue =
            chance(3)
            ? ["range": ["start": .integer(pick([1, 80])), "end": .integer(pick([81, 65_535]))]]
            : ["number": .integer(pick(PolicyFlow.ports))]
        return [pick(["tcp", "udp"]): ["destinationPort": port]]
    }

    // MARK: Selectors

    /// - Parameter mayBeFaulty: whether an operator may be one that does not exist.
    private mutating func podSelector(mayBeFaulty: Bool = false) -> JSONValue {
        selector([("pod", PolicyWorld.names), ("role", ["web", "client"])], mayBeFaulty)
    }

    private mutating func namespaceSelector(mayBeFaulty: Bool = false) -> JSONValue {
        selector([("ns", PolicyWorld.namespaces), ("team", ["red", "blue"])], mayBeFaulty)
    }

    private mutating func selector(_ labels: [(key: String, values: [String])], _ mayBeFaulty: Bool) -> JSONValue {
        switch number(0...6) {
        case 0...1: return [:]
        case 2...4:
            // The first key is the one that all have at first.
            let label = chance(4) ? pick(labels) : labels[0]
            return ["matchLabels": [label.key: .string(pick(label.values))]]
        default:
            let requirements = (0..<number(1...2)).map { _ in requirement(pick(labels), mayBeFaulty) }
            return ["matchExpressions": .array(requirements)]
        }
    }

    private mutating func requirement(_ label: (key: String, values: [String]), _ mayBeFaulty: Bool) -> JSONValue {
        let isFaulty = mayBeFaulty && chance(12)
        let name = isFaulty ? "Near" : pick(["In", "In", "NotIn", "Exists", "DoesNotExist"])
        guard name.hasSuffix("In") else { return ["key": .string(label.key), "operator": .string(name)] }
        let values = Set((0..<number(1...2)).map { _ in pick(label.values) }).sorted().map(JSONValue.string)
        return ["key": .string(label.key), "operator": .string(name), "values": .array(values)]
    }
}
