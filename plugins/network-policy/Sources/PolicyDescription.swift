import HashTreeCollections
import KnetCore
import KnetLinux

/// What `knetd policy` shows.
struct PolicyDescription {
    let state: ClusterState
    let index: PolicyIndex
    let kernel: PolicyKernel

    // MARK: Summary

    /// Each policy with the pods of this node for which it holds, and what its rules counted.
    func summary() -> JSONValue {
        let counters = kernel.counters()
        let policies = index.policies.values.sorted { $0.key < $1.key }.map { policy -> JSONValue in
            let number = index.active.numbers[.policy(policy.key)]
            func rules(_ direction: Direction) -> JSONValue {
                .array(
                    (policy.rules(direction) ?? []).enumerated().map { position, rule in
                        let counter = number.flatMap { counters[PolicyTable.counter($0, direction, position)] }
                        return [
                            "rule": .string(rule.title), "action": .string(rule.action.rawValue),
                            "packets": .integer(Int(counter?.packets ?? 0)),
                        ]
                    })
            }
            return [
                "policy": .string(policy.title), "kind": .string(policy.key.kind.rawValue),
                "pods": .integer(index.subjectCount(policy.key)), "ingress": rules(.ingress), "egress": rules(.egress),
                "problems": .array(policy.problems.map(JSONValue.string)),
            ]
        }
        return ["policies": .array(policies)]
    }

    // MARK: Drops

    func drops(_ held: Drops, after number: Int) -> JSONValue {
        let drops = held.drops(after: number)
        let (origins, names) = (Origins(index), PodNames(state))
        let told = drops.map { drop -> JSONValue in
            let packet = drop.packet
            var object: [String: JSONValue] = [
                "number": .integer(drop.number), "time": .string(Timestamp.text(drop.time)),
                "source": .string("\(packet.source)"), "destination": .string("\(packet.destination)"),
                "protocol": .string(Self.transport(packet.transport)), "bytes": .integer(packet.length),
                "reason": .string(origins.reason(drop.counter)),
            ]
            if let origin = origins.known[drop.counter] {
                object["direction"] = .string(origin.direction.rawValue)
                object["policies"] = .array(origin.policies.map(JSONValue.string))
                if let rule = origin.rule { object["rule"] = .string(rule) }
            }
            for (end, address) in [("sourcePod", packet.source), ("destinationPod", packet.destination)] {
                if let pod = names.pod(at: address) { object[end] = .string("\(pod.namespace)/\(pod.name)") }
            }
            if let port = packet.sourcePort { object["sourcePort"] = .integer(Int(port)) }
            if let port = packet.port { object["port"] = .integer(Int(port)) }
            return .object(object)
        }
        return ["drops": .array(told), "last": .integer(drops.last?.number ?? number)]
    }

    private static func transport(_ number: UInt8) -> String {
        HostPort.Transport.allCases.first { $0.number == number }?.rawValue
            ?? [1: "icmp", 58: "icmpv6"][number] ?? "\(number)"
    }
}
