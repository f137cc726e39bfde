import KnetCore

/// Says what Kubernetes' policies allow, from the objects' JSON and for one flow at a time: as plain as it can be, and by itself, so that
/// a fault of the plugin is not shared.
///
/// Sources: `NetworkPolicySpec` of networking.k8s.io/v1, `ClusterNetworkPolicySpec` of policy.networking.k8s.io/v1alpha2.
struct PolicyOracle {
    enum Side: String, CaseIterable {
        case ingress = "Ingress"
        case egress = "Egress"

        /// Where a policy has its rules for this side, and a rule its peers.
        var rules: String { rawValue.lowercased() }
        var peers: String { self == .ingress ? "from" : "to" }

        /// The pod whose policies decide.
        func subject(of flow: PolicyFlow) -> String { self == .ingress ? flow.destination : flow.source }
        func peer(of flow: PolicyFlow) -> String { self == .ingress ? flow.source : flow.destination }
    }

    private struct Pod {
        let namespace: String
        let labels: [String: String]
        let addresses: [IPAddress]
        let ports: [JSONValue]
    }

    private var namespaces: [String: [String: String]] = [:]
    private var pods: [String: Pod] = [:]
    /// NetworkPolicies that select a pod for a side; by side, then by pod.
    private var policies: [Side: [String: [JSONValue]]] = [:]
    /// ClusterNetworkPolicies that have a pod as their subject, in the order in which they count.
    private var clusterPolicies: [String: [JSONValue]] = [:]

    init(_ objects: [JSONValue]) {
        for object in objects { readPlace(object) }
        for object in objects where object["kind"]?.string == "NetworkPolicy" {
            for side in Side.allCases where Self.types(of: object).contains(side.rawValue) {
                for pod in pods where isSelected(pod.value, by: object) {
                    policies[side, default: [:]][pod.key, default: []].append(object)
                }
            }
        }
        let ordered = objects.filter { $0["kind"]?.string == "ClusterNetworkPolicy" }.sorted {
            (Self.priority(of: $0), $0.name) < (Self.priority(of: $1), $1.name)
        }
        for pod in pods {
            clusterPolicies[pod.key] = ordered.filter { isGroup($0["spec"]?["subject"] ?? .null, pod.value) }
        }
    }

    private mutating func readPlace(_ object: JSONValue) {
        switch object["kind"]?.string {
        case "Namespace": namespaces[object.name] = object.labels
        case "Pod":
            let namespace = object.namespace
            pods["\(namespace)/\(object.name)"] = Pod(
                namespace: namespace, labels: object.labels,
                addresses: (object["status"] ?? .null).list("podIPs").compactMap {
                    $0["ip"]?.string.flatMap { IPAddress($0) }
                },
                ports: (object["spec"] ?? .null).list("containers").flatMap { $0.list("ports") })
        default: break
        }
    }

    // MARK: Decisions

    /// Both ends must allow it; what a pod sends to itself passes no network.
    func allows(_ flow: PolicyFlow) -> Bool {
        flow.source == flow.destination || (allows(flow, on: .egress) && allows(flow, on: .ingress))
    }

    func allows(_ flow: PolicyFlow, on side: Side) -> Bool {
        if let verdict = verdict(of: "Admin", flow, side) { return verdict }
        let selecting = policies[side]?[side.subject(of: flow)] ?? []
        if !selecting.isEmpty {
            return selecting.contains { policy in
                (policy["spec"] ?? .null).list(side.rules).contains {
                    admits($0, namespace: policy.namespace, flow, side)
                }
            }
        }
        return verdict(of: "Baseline", flow, side) ?? true
    }

    /// - Returns: `nil` where no rule of the tier decides, or one passes the flow on.
    private func verdict(of tier: String, _ flow: PolicyFlow, _ side: Side) -> Bool? {
        for policy in clusterPolicies[side.subject(of: flow)] ?? [] where policy["spec"]?["tier"]?.string == tier {
            for rule in (policy["spec"] ?? .null).list(side.rules) where concerns(rule, flow, side) {
                switch rule["action"]?.string {
                case "Accept": return true
                case "Deny": return false
                default: return nil
                }
            }
        }
        return nil
    }

    // MARK: NetworkPolicy

    /// The API server's default: Ingress, and Egress where there are rules for it.
    private static func types(of policy: JSONValue) -> [String] {
        let spec = policy["spec"] ?? .null
        let given = spec.list("policyTypes").compactMap(\.string)
        if !given.isEmpty { return given }
        return spec.list("egress").isEmpty ? ["Ingress"] : ["Ingress", "Egress"]
    }

    /// An operator that is not known keeps no pod out of a policy.
    private func isSelected(_ pod: Pod, by policy: JSONValue) -> Bool {
        pod.namespace == policy.namespace
            && Self.matches(policy["spec"]?["podSelector"], pod.labels, strangeOperator: true)
    }

    private func admits(_ rule: JSONValue, namespace: String, _ flow: PolicyFlow, _ side: Side) -> Bool {
        guard let pod = pods[side.peer(of: flow)] else { return false }
        let peers = rule.list(side.peers)
        let ports = rule.list("ports")
        return (peers.isEmpty || peers.contains { isPeer($0, namespace: namespace, pod, flow.family) })
            && (ports.isEmpty || ports.contains { isPort($0, flow) })
    }

    /// A peer that Kubernetes would refuse is nobody.
    private func isPeer(_ peer: JSONValue, namespace: String, _ pod: Pod, _ family: IPFamily) -> Bool {
        let (podSelector, namespaceSelector) = (peer.field("podSelector"), peer.field("namespaceSelector"))
        if let block = peer.field("ipBlock") {
            return podSelector == nil && namespaceSelector == nil && Self.isInside(block, pod, family)
        }
        if podSelector == nil && namespaceSelector == nil { return false }
        let isInNamespace =
            namespaceSelector == nil
            ? pod.namespace == namespace : Self.matches(namespaceSelector, namespaces[pod.namespace] ?? [:])
        return isInNamespace && Self.matches(podSelector, pod.labels)
    }

    private static func isInside(_ block: JSONValue, _ pod: Pod, _ family: IPFamily) -> Bool {
        guard let whole = range(block["cidr"]) else { return false }
        var holes: [CIDR] = []
        for text in block.list("except") {
            guard let hole = range(text), whole.contains(hole) else { return false }
            holes.append(hole)
        }
        guard let address = pod.addresses.first(where: { $0.family == family }) else { return false }
        return whole.contains(address) && !holes.contains { $0.contains(address) }
    }

    private func isPort(_ port: JSONValue, _ flow: PolicyFlow) -> Bool {
        guard (port.field("protocol")?.string ?? "TCP") == flow.transport.rawValue else { return false }
        switch (port.field("port"), port.field("endPort")) {
        case (nil, nil): return true
        case (.integer(let number)?, nil): return number == flow.port
        case (.integer(let first)?, .integer(let last)?): return first <= flow.port && flow.port <= last
        case (.string(let name)?, nil): return isNamed(name, flow)
        default: return false
        }
    }

    // MARK: ClusterNetworkPolicy

    private static func priority(of policy: JSONValue) -> Int { policy["spec"]?["priority"]?.integer ?? 0 }

    private func concerns(_ rule: JSONValue, _ flow: PolicyFlow, _ side: Side) -> Bool {
        guard let pod = pods[side.peer(of: flow)] else { return false }
        let address = pod.addresses.first { $0.family == flow.family }
        let isConcerned = rule.list(side.peers).contains { peer in
            let ranges = peer.list("networks").compactMap { Self.range($0) }
            return isGroup(peer, pod) || ranges.contains { range in address.map { range.contains($0) } ?? false }
        }
        let protocols = rule.list("protocols")
        return isConcerned && (protocols.isEmpty || protocols.contains { isProtocol($0, flow) })
    }

    /// `namespaces` or `pods`, as subjects and peers have them.
    private func isGroup(_ group: JSONValue, _ pod: Pod) -> Bool {
        let labels = namespaces[pod.namespace] ?? [:]
        if let selector = group.field("namespaces") { return Self.matches(selector, labels) }
        guard let both = group.field("pods") else { return false }
        return Self.matches(both["namespaceSelector"], labels) && Self.matches(both["podSelector"], pod.labels)
    }

    private func isProtocol(_ one: JSONValue, _ flow: PolicyFlow) -> Bool {
        if let name = one.field("destinationNamedPort")?.string { return isNamed(name, flow) }
        guard let transport = one.field(flow.transport.rawValue.lowercased()) else { return false }
        guard let port = transport.field("destinationPort") else { return true }
        if let number = port.field("number")?.integer { return number == flow.port }
        guard let first = port["range"]?["start"]?.integer, let last = port["range"]?["end"]?.integer else {
            return false
        }
        return first <= flow.port && flow.port <= last
    }

    // MARK: What both have

    /// Whether the pod that is sent to calls this port so.
    private func isNamed(_ name: String, _ flow: PolicyFlow) -> Bool {
        (pods[flow.destination]?.ports ?? []).contains {
            $0["name"]?.string == name && $0["containerPort"]?.integer == flow.port
                && ($0.field("protocol")?.string ?? "TCP") == flow.transport.rawValue
        }
    }

    private static func range(_ value: JSONValue?) -> CIDR? {
        let parts = (value?.string ?? "").split(separator: "/")
        guard parts.count == 2, let address = IPAddress(parts[0]), let length = Int(parts[1]),
            (0...address.family.bits).contains(length)
        else { return nil }
        return CIDR(containing: address, prefixLength: length)
    }

    /// - Parameter strangeOperator: what a requirement with an unknown operator is taken for.
    private static func matches(
        _ selector: JSONValue?, _ labels: [String: String], strangeOperator: Bool = false
    ) -> Bool {
        let equal = selector?["matchLabels"]?.object ?? [:]
        guard equal.allSatisfy({ labels[$0.key] == $0.value.string }) else { return false }
        return (selector?.list("matchExpressions") ?? []).allSatisfy { requirement in
            let value = labels[requirement["key"]?.string ?? ""]
            let isListed = requirement.list("values").contains { $0.string != nil && $0.string == value }
            switch requirement["operator"]?.string {
            case "In": return isListed
            case "NotIn": return !isListed
            case "Exists": return value != nil
            case "DoesNotExist": return value == nil
            default: return strangeOperator
            }
        }
    }
}

extension JSONValue {
    fileprivate var name: String { self["metadata"]?["name"]?.string ?? "" }
    fileprivate var namespace: String { self["metadata"]?["namespace"]?.string ?? "default" }
    fileprivate var labels: [String: String] {
        (self["metadata"]?["labels"]?.object ?? [:]).compactMapValues(\.string)
    }

    /// What is null is not there.
    fileprivate func field(_ name: String) -> JSONValue? { self[name] == .null ? nil : self[name] }
    fileprivate func list(_ name: String) -> [JSONValue] { self[name]?.array ?? [] }
}
