import HashTreeCollections
import KnetCore
import KnetLinux

/// Why a connection passes or does not: by the objects, and by what the kernel holds. Made once for many connections.
struct Explainer {
    private let state: ClusterState
    private let index: PolicyIndex
    private let walk: KernelWalk
    private let names: PodNames
    /// Interfaces of this node's pods by their addresses.
    private let links: [IPAddress: String]
    /// Chains of ours that are not as this process wrote them.
    private let differences: [String]

    struct Unknown: Error, CustomStringConvertible { let description: String }

    init(_ state: ClusterState, _ index: PolicyIndex, _ table: PolicyTable, _ kernel: PolicyKernel) throws {
        self.state = state
        self.index = index
        let written = Self.written(index, table)
        walk = KernelWalk(written, elements: kernel.elements)
        names = PodNames(state)
        var links: [IPAddress: String] = [:]
        for attachment in state.attachments.values {
            for address in attachment.addresses { links[address] = attachment.hostLink }
        }
        self.links = links
        let held = Dictionary(try kernel.elements.contents()?.chains.map { ($0.name, $0) } ?? []) { first, _ in first }
        differences = written.compactMap { entry in
            guard case .chain(let chain) = entry, held[chain.name] != chain else { return nil }
            return "chain \(chain.name) is not in the kernel as it should be"
        }
    }

    /// All chains and sets that this process wants in the kernel.
    private static func written(_ index: PolicyIndex, _ table: PolicyTable) -> [PolicyEntry] {
        let numbers = index.active.numbers
        let policies = index.policies.values.filter { index.isInUse($0.key) }.flatMap { table.entries($0, numbers) }
        let pods = numbers.things.keys.flatMap { thing -> [PolicyEntry] in
            guard case .pod(let direction, let profile) = thing else { return [] }
            return table.entries(profile, direction, index.policies, numbers)
        }
        return table.fixed + policies + pods
    }

    /// - Parameters:
    ///   - source: a pod or an address.
    ///   - target: the same with a port and perhaps a protocol: `web:80/tcp`.
    func explain(_ source: String, _ target: String) throws -> JSONValue {
        let (name, port, transport) = try Self.parse(target)
        let (senders, receivers) = (try ends(source), try ends(name))
        var ways: [JSONValue] = []
        for sender in senders {
            for receiver in receivers where receiver.address.family == sender.address.family {
                ways.append(try explain(sender, receiver, transport, port))
            }
        }
        guard !ways.isEmpty else {
            throw Unknown(description: "\(source) and \(name) have no addresses of the same family")
        }
        return ["from": .string(source), "to": .string(target), "ways": .array(ways)]
    }

    private func explain(
        _ sender: PolicyPeer, _ receiver: PolicyPeer, _ transport: HostPort.Transport, _ port: UInt16
    ) throws -> JSONValue {
        let packet = KernelWalk.Packet(
            interface: links[sender.address] ?? "", target: links[receiver.address] ?? "", source: sender.address,
            destination: receiver.address,
            transport: transport.number, port: port)
        var faults = differences
        func side(_ direction: Direction, _ subject: PolicyPeer, _ other: PolicyPeer) throws -> (JSONValue, Bool) {
            let decision = Decision(
                direction, subject: subject, other: other, transport: transport.number, port: port, index)
            var isAccepted = decision.outcome == .accept
            var result: [String: JSONValue] = [
                "policies": .array(decision.policies.map { .string(title($0)) }),
                "decides": .string(words(decision, subject)),
            ]
            if links[subject.address] != nil {
                var walk = walk
                let passes = try walk.passes(packet, hook: "forward_\(direction.rawValue)")
                result["kernel"] = .array(walk.steps.map(JSONValue.string))
                if passes != isAccepted {
                    faults.append(
                        "\(direction.rawValue): by the objects it is \(isAccepted ? "accepted" : "denied"), by the kernel "
                            + (passes ? "accepted" : "denied"))
                }
                isAccepted = passes
            } else if let pod = subject.pod {
                result["kernel"] = .array([
                    .string("not looked at: the pod is on node \(pod.spec?.nodeName ?? "?")")
                ])
            }
            result["verdict"] = .string(isAccepted ? "accept" : "deny")
            return (.object(result), isAccepted)
        }
        let egress = try side(.egress, sender, receiver)
        let ingress = try side(.ingress, receiver, sender)
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

    // MARK: What words name

    private static func parse(_ target: String) throws -> (String, UInt16, HostPort.Transport) {
        var parts = target.split(separator: "/")
        var transport = HostPort.Transport.tcp
        if parts.count > 1, let last = parts.last, let known = HostPort.Transport(rawValue: last.lowercased()) {
            transport = known
            parts.removeLast()
        }
        let text = parts.joined(separator: "/")
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            throw Unknown(description: "\"\(target)\" has no port: allowed is POD:PORT or POD:PORT/PROTOCOL")
        }
        return (String(text[..<colon]), port, transport)
    }

    /// The pod or address that a word names.
    private func ends(_ word: String) throws -> [PolicyPeer] {
        let bare = word.hasPrefix("[") && word.hasSuffix("]") ? String(word.dropFirst().dropLast()) : word
        if let address = IPAddress(bare) {
            return [PolicyPeer(address, pod: names.pod(at: address).flatMap { state.pods[$0] }, in: state)]
        }
        let parts = word.split(separator: "/").map(String.init)
        let key = ObjectKey(.pod, namespace: parts.count > 1 ? parts[0] : "default", name: parts.last ?? "")
        guard let pod = state.pods[key] else { throw Unknown(description: "\(key) is not known") }
        let attached = state.attachments.values.filter { $0.pod == key }.flatMap(\.addresses)
        let addresses = Set(attached + (pod.isInPodNetwork ? pod.addresses : [])).sorted()
        guard !addresses.isEmpty else { throw Unknown(description: "\(key) has no address of its own") }
        return addresses.map { PolicyPeer($0, pod: pod, in: state) }
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
