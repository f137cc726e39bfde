import KnetCore

/// One kind of traffic from one pod to another.
struct PolicyFlow: Hashable, CustomStringConvertible {
    enum Transport: String, CaseIterable {
        case tcp = "TCP"
        case udp = "UDP"
    }

    /// `namespace/name`.
    let source: String
    let destination: String
    let port: Int
    let transport: Transport
    let family: IPFamily

    static let ports = [80, 81]

    /// All that is tried: 9 × 9 pods, two ports, two transports, two families.
    static let all: [PolicyFlow] = PolicyWorld.pods.flatMap { source in
        PolicyWorld.pods.flatMap { flows(from: source, to: $0) }
    }

    static func flows(from source: String, to destination: String) -> [PolicyFlow] {
        ports.flatMap { port in
            Transport.allCases.flatMap { transport in
                IPFamily.allCases.map { family in
                    PolicyFlow(
                        source: source, destination: destination, port: port, transport: transport, family: family)
                }
            }
        }
    }

    /// `80/TCP IPv4`.
    var kind: String { "\(port)/\(transport.rawValue) \(family)" }
    var description: String { "\(source) → \(destination) \(kind)" }
}

/// A cluster as its manifests say it: three namespaces with three pods each, and policies.
struct PolicyWorld {
    /// Where a pod is.
    struct Place: Sendable {
        let node: String
        let addresses: [IPAddress]
    }

    static let namespaces = ["x", "y", "z"]
    static let names = ["a", "b", "c"]
    /// Each as `namespace/name`.
    static let pods = namespaces.flatMap { namespace in names.map { "\(namespace)/\($0)" } }
    /// Two nodes share the pods evenly, so that each has neighbours on its node and on the other.
    static func node(of pod: String) -> String { "node\((pods.firstIndex(of: pod) ?? 0) % 2 + 1)" }

    let places: [String: Place]
    /// By namespace. What has no labels at all has no `labels` in its manifest either.
    var namespaceLabels: [String: [String: String]]
    /// By pod.
    var podLabels: [String: [String: String]]
    /// NetworkPolicies and ClusterNetworkPolicies.
    var policies: [JSONValue] = []
    /// Whatever else the cluster holds: Services, pods that come and go.
    var others: [JSONValue] = []

    /// Each namespace bears its name, each pod its own and a role.
    init(places: [String: Place]) {
        self.places = places
        namespaceLabels = Dictionary(
            uniqueKeysWithValues: Self.namespaces.map { ($0, ["ns": $0, "kubernetes.io/metadata.name": $0]) })
        podLabels = Dictionary(
            uniqueKeysWithValues: Self.pods.map {
                let name = Self.parts(of: $0).name
                return ($0, ["pod": name, "role": name == "a" ? "web" : "client"])
            })
    }

    static func parts(of pod: String) -> (namespace: String, name: String) {
        let parts = pod.split(separator: "/").map(String.init)
        return (parts.first ?? "", parts.last ?? "")
    }

    func address(of pod: String, _ family: IPFamily) -> IPAddress? {
        places[pod]?.addresses.first { $0.family == family }
    }

    // MARK: Manifests

    var objects: [JSONValue] {
        Self.namespaces.map { namespaceObject($0) } + Self.pods.map { podObject($0) } + others + policies
    }

    private func namespaceObject(_ name: String) -> JSONValue {
        [
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": ["name": .string(name), "labels": Self.labels(namespaceLabels[name])],
        ]
    }

    private func podObject(_ pod: String) -> JSONValue {
        let (namespace, name) = Self.parts(of: pod)
        let addresses = (places[pod]?.addresses ?? []).map { JSONValue.object(["ip": .string("\($0)")]) }
        return [
            "apiVersion": "v1", "kind": "Pod",
            "metadata": [
                "name": .string(name), "namespace": .string(namespace), "labels": Self.labels(podLabels[pod]),
            ],
            "spec": ["nodeName": .string(places[pod]?.node ?? ""), "containers": Self.containers(of: name)],
            "status": ["phase": "Running", "podIPs": .array(addresses)],
        ]
    }

    private static func labels(_ labels: [String: String]?) -> JSONValue {
        guard let labels, !labels.isEmpty else { return .null }
        return .object(labels.mapValues { .string($0) })
    }

    /// Two containers. The first is the same in all pods; what the second calls `web` is another port in each, and not even of the same
    /// transport.
    private static func containers(of name: String) -> JSONValue {
        func port(_ name: String, _ number: Int, _ transport: JSONValue) -> JSONValue {
            ["name": .string(name), "containerPort": .integer(number), "protocol": transport]
        }
        let common = [
            port("serve-80", 80, "TCP"), port("serve-81", 81, .null), port("serve-80-udp", 80, "UDP"),
            port("serve-81-udp", 81, "UDP"),
        ]
        let own =
            switch name {
            case "a": [port("web", 80, .null)]
            case "b": [port("web", 81, "TCP"), port("names", 80, "UDP")]
            default: [port("web", 80, "UDP"), port("names", 81, "UDP")]
            }
        return [["name": "first", "ports": .array(common)], ["name": "second", "ports": .array(own)]]
    }

    /// What of it differs between cases, for people.
    var text: String {
        JSONValue.object([
            "namespaces": .object(namespaceLabels.mapValues { Self.labels($0) }),
            "pods": .object(podLabels.mapValues { Self.labels($0) }), "policies": .array(policies),
        ]).text(pretty: true)
    }
}
