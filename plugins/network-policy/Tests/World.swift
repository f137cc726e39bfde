import FoundationEssentials
import HashTreeCollections
import KnetLinux
import TestSupport

@testable import KnetCore
@testable import NetworkPolicyPlugin

/// A small cluster in which everything changes at random. Half of the pods are on this node.
struct World {
    let store = StateStore()
    var random: SeededGenerator

    static let pods = ["a", "b", "c", "d", "e", "f"]
    private static let local: Set<String> = ["a", "c", "e"]

    static func namespace(of pod: String) -> String { pod < "d" ? "x" : "y" }

    init(seed: UInt64) {
        random = SeededGenerator(seed: seed)
        let node = LocalNode(
            name: "node1", podCIDRs: [CIDR("10.42.1.0/24"), CIDR("fd42:0:0:1::/64")].compactMap { $0 }, uplinks: [:])
        store.update([.local], told: NetworkPolicies.needs.kinds) { $0.set(local: node) }
        for _ in 0..<12 { step() }
    }

    private mutating func pick<T>(_ values: [T]) -> T { values[Int.random(in: 0..<values.count, using: &random)] }
    private mutating func chance(_ one: Int) -> Bool { Int.random(in: 1...one, using: &random) == 1 }

    /// Sets or removes one object.
    mutating func step() {
        switch Int.random(in: 0...9, using: &random) {
        case 0: change(namespace(pick(["x", "y"])))
        case 1, 2: attach(pick(Array(Self.local).sorted()))
        case 3, 4, 5: change(pod(pick(Self.pods)))
        case 6, 7, 8: change(policy())
        default: change(clusterPolicy())
        }
    }

    private mutating func change(_ document: JSONValue) {
        guard let kind = document["kind"]?.string.flatMap({ ObjectKey.Kind(rawValue: $0) }),
            let object = try? AnyClusterObject(document, kind)
        else { preconditionFailure("\(document.text()) cannot be read") }
        let goes = chance(5)
        store.update([object.key]) { if goes { $0.remove(object.key) } else { $0.set(object) } }
    }

    private func number(_ pod: String) -> Int { (Self.pods.firstIndex(of: pod) ?? 0) + 1 }

    private mutating func attach(_ pod: String) {
        let id = AttachmentID(containerID: pod, interface: "eth0")
        let attachment = Attachment(
            id: id, network: "knetd", podNamespace: Self.namespace(of: pod), podName: pod, namespacePath: "/x",
            namespaceCookie: 1,
            addresses: ["10.42.1.\(number(pod))", "fd42:0:0:1::\(number(pod))"].compactMap { IPAddress($0) })
        let goes = chance(5)
        store.update([.attachment(id)]) { if goes { $0.remove(.attachment(id)) } else { $0.set(attachment) } }
    }

    private mutating func namespace(_ name: String) -> JSONValue {
        ["kind": "Namespace", "metadata": ["name": .string(name), "labels": ["team": pick(["red", "blue"])]]]
    }

    private mutating func pod(_ name: String) -> JSONValue {
        let here = Self.local.contains(name)
        let range = here ? 1 : 2
        return [
            "kind": "Pod",
            "metadata": [
                "name": .string(name), "namespace": .string(Self.namespace(of: name)),
                "labels": ["app": pick(["web", "db"]), "tier": pick(["one", "two"])],
            ],
            "spec": [
                "nodeName": here ? "node1" : "node2", "hostNetwork": .boolean(chance(12)),
                "containers": [
                    [
                        "ports": [
                            ["name": "web", "containerPort": pick([80, 81])],
                            ["name": "dns", "containerPort": 53, "protocol": "UDP"],
                        ]
                    ]
                ],
            ],
            "status": [
                "phase": chance(10) ? "Succeeded" : "Running",
                "podIPs": [
                    ["ip": .string("10.42.\(range).\(number(name))")],
                    ["ip": .string("fd42:0:0:\(range)::\(number(name))")],
                ],
            ],
        ]
    }

    private mutating func selector() -> JSONValue {
        switch Int.random(in: 0...4, using: &random) {
        case 0: [:]
        case 1: ["matchLabels": ["app": pick(["web", "db"])]]
        case 2: ["matchLabels": ["app": "web", "tier": pick(["one", "two"])]]
        case 3: ["matchExpressions": [["key": "app", "operator": pick(["In", "NotIn"]), "values": ["db"]]]]
        default:
            [
                "matchExpressions": [
                    ["key": pick(["app", "none"]), "operator": pick(["Exists", "DoesNotExist", "Wrong"])]
                ]
            ]
        }
    }

    private mutating func namespaces() -> JSONValue {
        pick([
            [:], ["matchLabels": ["team": "red"]], ["matchLabels": ["kubernetes.io/metadata.name": "y"]],
            ["matchExpressions": [["key": "team", "operator": "NotIn", "values": ["blue"]]]],
        ])
    }

    private mutating func peer() -> JSONValue {
        switch Int.random(in: 0...4, using: &random) {
        case 0: ["podSelector": selector()]
        case 1: ["namespaceSelector": namespaces()]
        case 2: ["namespaceSelector": namespaces(), "podSelector": selector()]
        case 3: ["ipBlock": ["cidr": pick(["10.42.0.0/16", "10.42.2.4/30", "fd42::/48", "10.42.1.3/32", "wrong"])]]
        default:
            ["ipBlock": ["cidr": "10.42.0.0/16", "except": [pick(["10.42.1.0/24", "10.42.2.5/32", "10.43.0.0/16"])]]]
        }
    }

    private mutating func port() -> JSONValue {
        pick([
            ["port": 80], ["port": "web"], ["port": 53, "protocol": "UDP"], ["protocol": "TCP"],
            ["port": 80, "endPort": 90],
            ["port": "dns", "protocol": "UDP"], ["port": 90, "endPort": 80],
        ])
    }

    private mutating func rules(_ side: String) -> JSONValue {
        .array(
            (0..<Int.random(in: 0...2, using: &random)).map { _ in
                var rule: [String: JSONValue] = [:]
                if !chance(4) { rule[side] = .array((0...Int.random(in: 0...2, using: &random)).map { _ in peer() }) }
                if chance(2) { rule["ports"] = .array((0...Int.random(in: 0...1, using: &random)).map { _ in port() }) }
                return .object(rule)
            })
    }

    private mutating func policy() -> JSONValue {
        [
            "kind": "NetworkPolicy",
            "metadata": ["name": pick(["p", "q", "r"]), "namespace": pick(["x", "y"])],
            "spec": [
                "podSelector": selector(), "ingress": rules("from"), "egress": rules("to"),
                "policyTypes": pick([["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
            ],
        ]
    }

    private mutating func clusterRules(_ side: String) -> JSONValue {
        .array(
            (0..<Int.random(in: 0...2, using: &random)).map { _ in
                var peers: [JSONValue] = [
                    chance(2)
                        ? ["namespaces": namespaces()]
                        : ["pods": ["namespaceSelector": namespaces(), "podSelector": selector()]]
                ]
                if side == "to", chance(3) { peers = [["networks": [pick(["10.42.2.0/24", "fd42::/48"])]]] }
                var rule: [String: JSONValue] = [
                    "action": pick(["Accept", "Deny", "Pass", "Wrong"]), side: .array(peers),
                ]
                if chance(2) {
                    rule["protocols"] = [
                        pick([
                            ["tcp": ["destinationPort": ["number": 80]]], ["destinationNamedPort": "web"], ["udp": [:]],
                        ])
                    ]
                }
                return .object(rule)
            })
    }

    private mutating func clusterPolicy() -> JSONValue {
        [
            "kind": "ClusterNetworkPolicy", "metadata": ["name": pick(["g", "h"])],
            "spec": [
                "tier": pick(["Admin", "Baseline", "Other"]),
                "priority": .integer(Int.random(in: 1...3, using: &random)),
                "subject": chance(2)
                    ? ["namespaces": namespaces()]
                    : ["pods": ["namespaceSelector": namespaces(), "podSelector": selector()]],
                "ingress": clusterRules("from"), "egress": clusterRules("to"),
            ],
        ]
    }
}
