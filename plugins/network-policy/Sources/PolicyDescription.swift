import Glibc
import HashTreeCollections
import KnetCore
import KnetLinux

/// What `knetd policy` shows.
struct PolicyDescription {
    let state: ClusterState
    let index: PolicyIndex
    let table: PolicyTable
    let kernel: PolicyKernel

    struct Unknown: Error, CustomStringConvertible { let description: String }

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

    func drops(_ listener: DropListener, after number: Int) -> JSONValue {
        let drops = listener.drops(after: number)
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

    // MARK: Explanations

    /// - Parameters:
    ///   - source: a pod or an address.
    ///   - target: the same with a port and perhaps a protocol: `web:80/tcp`.
    func explain(_ source: String, _ target: String) throws -> JSONValue {
        let (name, port, transport) = try Self.parse(target)
        let (senders, receivers) = (try ends(source), try ends(name))
        var ways: [JSONValue] = []
        for sender in senders {
            guard let receiver = receivers.first(where: { $0.address.family == sender.address.family }) else {
                continue
            }
            ways.append(try explain(sender, receiver, transport, port))
        }
        guard !ways.isEmpty else {
            throw Unknown(description: "\(source) and \(name) have no address of the same family")
        }
        return ["from": .string(source), "to": .string(target), "ways": .array(ways)]
    }

    private func explain(
        _ sender: PolicyPeer, _ receiver: PolicyPeer, _ transport: HostPort.Transport, _ port: UInt16
    ) throws -> JSONValue {
        var packet = KernelWalk.Packet(
            source: sender.address, destination: receiver.address, transport: transport.number, port: port)
        packet.interface = link(of: sender.address) ?? ""
        var faults: [String] = []
        func side(_ direction: Direction, _ subject: PolicyPeer, _ other: PolicyPeer) throws -> (JSONValue, Bool) {
            let decision = Decision(
                direction, subject: subject, other: other, transport: transport.number, port: port, index)
            var isAccepted = decision.outcome == .accept
            var result: [String: JSONValue] = [
                "policies": .array(decision.policies.map { .string(title($0)) }),
                "decides": .string(words(decision, subject)),
            ]
            if link(of: subject.address) != nil {
                var walk = KernelWalk(written(), elements: kernel.elements)
                let passes = try walk.passes(packet, hook: "forward_\(direction.rawValue)")
                result["kernel"] = .array(walk.steps.map(JSONValue.string))
                if passes != isAccepted {
                    faults.append(
                        "\(direction.rawValue): by the objects it is \(isAccepted ? "accepted" : "denied"), by the kernel "
                            + (passes ? "accepted" : "denied"))
                }
                isAccepted = passes
            } else if subject.pod != nil {
                result["kernel"] = .array([
                    .string("not looked at: the pod is on node \(subject.pod?.spec?.nodeName ?? "?")")
                ])
            }
            result["verdict"] = .string(isAccepted ? "accept" : "deny")
            return (.object(result), isAccepted)
        }
        let egress = try side(.egress, sender, receiver)
        let ingress = try side(.ingress, receiver, sender)
        faults += try differences()
        return [
            "source": .string("\(sender.address)"), "destination": .string("\(receiver.address)"),
            "protocol": .string(transport.rawValue), "port": .integer(Int(port)),
            "egress": egress.0, "ingress": ingress.0,
            "verdict": .string(egress.1 && ingress.1 ? "accept" : "deny"),
            "faults": .array(faults.map(JSONValue.string)),
        ]
    }

    private func words(_ decision: Decision, _ subject: PolicyPeer) -> String {
        if let rule = decision.rule { return "\(title(rule.policy)) \(rule.title)" }
        if subject.pod == nil { return "no pod: policies do not hold for it" }
        if decision.policies.isEmpty { return "no policy holds for the pod" }
        return decision.outcome == .deny ? "no policy admits it" : "no rule speaks of it"
    }

    private func title(_ key: ObjectKey) -> String { index.policies[key]?.title ?? key.name }

    /// Chains of ours that are not as this process wrote them.
    private func differences() throws -> [String] {
        let contents = try kernel.elements.contents()
        let held = Dictionary((contents?.chains ?? []).map { ($0.name, $0) }) { first, _ in first }
        return written().compactMap { entry in
            guard case .chain(let chain) = entry, held[chain.name] != chain else { return nil }
            return "chain \(chain.name) is not in the kernel as it should be"
        }
    }

    /// All chains and sets that this process wants in the kernel.
    private func written() -> [PolicyEntry] {
        let policies = index.policies.values.filter { index.isInUse($0.key) }.flatMap {
            table.entries($0, index.active.numbers)
        }
        let pods = index.active.numbers.things.keys.flatMap { thing -> [PolicyEntry] in
            guard case .pod(let direction, let profile) = thing else { return [] }
            return table.entries(profile, direction, index.policies, index.active.numbers)
        }
        return table.fixed + policies + pods
    }

    private func link(of address: IPAddress) -> String? {
        state.attachments.values.first { $0.addresses.contains(address) }?.hostLink
    }

    private static func parse(_ target: String) throws -> (String, UInt16, HostPort.Transport) {
        let parts = target.split(separator: "/")
        var rest = parts[...]
        var transport = HostPort.Transport.tcp
        if rest.count > 1, let last = rest.last, let known = HostPort.Transport(rawValue: last.lowercased()) {
            transport = known
            rest = rest.dropLast()
        }
        let text = rest.joined(separator: "/")
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            throw Unknown(description: "\"\(target)\" has no port: allowed is POD:PORT or POD:PORT/PROTOCOL")
        }
        return (String(text[..<colon]), port, transport)
    }

    /// The pod or address that a word names.
    private func ends(_ word: String) throws -> [PolicyPeer] {
        let bare = word.hasPrefix("[") && word.hasSuffix("]") ? String(word.dropFirst().dropLast()) : word
        if let address = IPAddress(bare) { return [PolicyPeer(address, pod: pod(at: address), in: state)] }
        let parts = word.split(separator: "/").map(String.init)
        let key = ObjectKey(
            .pod, namespace: parts.count > 1 ? parts[0] : "default", name: parts.last ?? "")
        guard let pod = state.pods[key] else { throw Unknown(description: "\(key) is not known") }
        let attached = state.attachments.values.filter { $0.pod == key }.flatMap(\.addresses)
        let addresses = Set(attached + (pod.isInPodNetwork ? pod.addresses : [])).sorted()
        guard !addresses.isEmpty else { throw Unknown(description: "\(key) has no address of its own") }
        return addresses.map { PolicyPeer($0, pod: pod, in: state) }
    }

    private func pod(at address: IPAddress) -> Pod? { PodNames(state).pod(at: address).flatMap { state.pods[$0] } }
}

enum Timestamp {
    /// RFC 3339, in UTC.
    static func text(_ seconds: Int) -> String {
        var (time, parts) = (time_t(seconds), tm())
        gmtime_r(&time, &parts)
        func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))T"
            + "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))Z"
    }
}

/// Which pod has an address.
struct PodNames {
    private var keys: [IPAddress: ObjectKey] = [:]

    init(_ state: ClusterState) {
        for (key, pod) in state.pods where pod.isInPodNetwork { for address in pod.addresses { keys[address] = key } }
        for attachment in state.attachments.values {
            if let key = attachment.pod { for address in attachment.addresses { keys[address] = key } }
        }
    }

    func pod(at address: IPAddress) -> ObjectKey? { keys[address] }
}
