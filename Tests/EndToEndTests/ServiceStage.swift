import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Two nodes, a server and a client as pods on each, and Services as manifests.
final class ServiceStage {
    let playground: Playground
    private var servers: [EchoServer] = []

    static let clusterRange = "10.96.0.0/16"
    /// Addresses that the LAN routes to the first node.
    static let externalRanges: [IPFamily: String] = [.v4: "198.51.100.0/24", .v6: "2001:db8:5::/64"]

    /// What became of a connection.
    enum Outcome: Equatable, CustomStringConvertible {
        case answered(by: IPAddress, seen: IPAddress)
        case refused
        case silent
        case failed(String)

        var server: IPAddress? { if case .answered(let server, _) = self { server } else { nil } }
        var seen: IPAddress? { if case .answered(_, let seen) = self { seen } else { nil } }

        var description: String {
            switch self {
            case .answered(let server, let seen): "answered by \(server), which saw \(seen)"
            case .refused: "refused"
            case .silent: "silent"
            case .failed(let reason): reason
            }
        }
    }

    init(_ playground: Playground, servers: [(name: String, node: String)]) throws {
        self.playground = playground
        for (name, node) in servers { try addServer(name, node: node) }
        try playground.addPod("c1", node: "node1")
        if playground.nodeNames.count > 1 { try playground.addPod("c2", node: "node2") }
        for family in IPFamily.allCases {
            guard let node = playground.address(of: "node1", family) else { continue }
            let ranges = [Self.externalRanges[family], family == .v4 ? Self.clusterRange : "fd96::/64"].compactMap {
                $0
            }
            for range in ranges {
                _ = try shell(
                    "ip \(family == .v6 ? "-6" : "") route add \(range) via \(node)", in: playground.namespace("lan"))
            }
        }
    }

    func addServer(_ name: String, node: String) throws {
        try playground.addPod(name, node: node)
        servers.append(try EchoServer(in: playground.namespace(name)))
    }

    func addServers(_ pods: [String: String]) throws {
        for (name, node) in pods { try addServer(name, node: node) }
    }

    func stop() { for server in servers { server.stop() } }

    func address(_ name: String, _ family: IPFamily) throws -> IPAddress {
        try #require(
            playground.addresses(of: name).first { $0.family == family } ?? playground.address(of: name, family)
                ?? (name == "outside" ? playground.outsideAddress(family) : nil))
    }

    // MARK: Manifests

    func write(_ text: String, _ file: String) throws {
        try Data(text.utf8).write(to: URL(fileURLWithPath: "\(playground.manifests)/\(file)"), options: .atomic)
    }

    /// Puts these objects in the place of all Services and slices that were there before.
    func put(_ objects: [JSONValue]) throws {
        try Data(JSONValue.object(["kind": "List", "apiVersion": "v1", "items": .array(objects)]).text().utf8).write(
            to: URL(fileURLWithPath: "\(playground.manifests)/services.json"), options: .atomic)
    }

    static func clusterIP(_ number: Int, _ family: IPFamily) -> String {
        family == .v4 ? "10.96.0.\(number)" : "fd96::\(number)"
    }

    /// A Service `name` at ClusterIP `number` of both families.
    static func service(
        _ name: String, _ number: Int, ports: [JSONValue] = [["port": 80, "targetPort": 7007]],
        annotations: [String: JSONValue] = [:], labels: [String: JSONValue] = [:], ingress: [JSONValue] = [],
        _ spec: [String: JSONValue] = [:]
    ) -> JSONValue {
        let base: [String: JSONValue] = [
            "clusterIP": .string(clusterIP(number, .v4)),
            "clusterIPs": .array(IPFamily.allCases.map { .string(clusterIP(number, $0)) }), "ports": .array(ports),
        ]
        return [
            "kind": "Service", "apiVersion": "v1",
            "metadata": ["name": .string(name), "annotations": .object(annotations), "labels": .object(labels)],
            "spec": .object(base.merging(spec) { $1 }),
            "status": ["loadBalancer": ["ingress": .array(ingress)]],
        ]
    }

    /// One endpoint of a slice: a pod of the playground, ready unless `conditions` say otherwise.
    struct End {
        let pod: String
        var conditions: [String: JSONValue] = [:]
        var zones: [String] = []
        var nodes: [String] = []
    }

    /// The slices of a Service, one for each family.
    func slices(
        _ service: String, _ ends: [End], ports: [JSONValue] = [["port": 7007]], suffix: String = ""
    ) throws -> [JSONValue] {
        try IPFamily.allCases.map { family in
            let endpoints = try ends.map { end -> JSONValue in
                [
                    "addresses": [.string("\(try address(end.pod, family))")], "conditions": .object(end.conditions),
                    "nodeName": .string(playground.node(of: end.pod) ?? end.pod),
                    "hints": [
                        "forZones": .array(end.zones.map { ["name": .string($0)] }),
                        "forNodes": .array(end.nodes.map { ["name": .string($0)] }),
                    ],
                ]
            }
            return [
                "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                "metadata": [
                    "name": .string("\(service)-\(family.rawValue)\(suffix)"),
                    "labels": ["kubernetes.io/service-name": .string(service)],
                ],
                "addressType": .string(family.description), "endpoints": .array(endpoints), "ports": .array(ports),
            ]
        }
    }

    // MARK: Connections

    func connect(from client: String, to address: IPAddress, port: UInt16 = 80, milliseconds: Int = 400) throws
        -> Outcome
    {
        do {
            let answer = try Prober(playground.namespace(client), port: port, milliseconds: milliseconds).answer(
                address)
            return .answered(by: answer.server, seen: answer.seen)
        } catch let error as SystemError {
            switch error.errno {
            case ECONNREFUSED: return .refused
            case EAGAIN, EINPROGRESS, ETIMEDOUT: return .silent
            default: return .failed("\(error)")
            }
        } catch {
            return .failed("\(error)")
        }
    }

    func connect(from client: String, to number: Int, _ family: IPFamily, port: UInt16 = 80) throws -> Outcome {
        try connect(from: client, to: try ip(Self.clusterIP(number, family)), port: port)
    }

    /// The servers of so many connections.
    func servers(
        from client: String, to address: IPAddress, port: UInt16 = 80, count: Int = 30
    ) throws -> [IPAddress: Int] {
        var servers: [IPAddress: Int] = [:]
        for _ in 0..<count {
            let outcome = try connect(from: client, to: address, port: port)
            guard let server = outcome.server else { throw Playground.Failure("\(client) to \(address): \(outcome)") }
            servers[server, default: 0] += 1
        }
        return servers
    }

    func ip(_ text: String) throws -> IPAddress { try #require(IPAddress(text)) }

    /// Waits until the Service at `number` is in force for that client.
    func waitFor(
        _ number: Int, within seconds: Double = 4, from client: String = "c1", port: UInt16 = 80,
        _ wanted: (Outcome) -> Bool
    ) throws {
        for family in IPFamily.allCases {
            var last = Outcome.silent
            try eventually(within: seconds) {
                last = try connect(from: client, to: number, family, port: port)
                return wanted(last)
            }
            if !wanted(last) {
                throw Playground.Failure("\(family) \(number): \(last)\n\(playground.log(of: "node1"))")
            }
        }
    }
}

/// A stage that lasts as long as `body`.
func withServices(
    _ configuration: JSONValue = ["plugins": ["overlay": [:], "serviceProxy": [:]]], nodes: Int = 2,
    servers: [(name: String, node: String)] = [("a", "node1"), ("b", "node2")], byRules: Bool = false,
    _ body: (ServiceStage) throws -> Void
) throws {
    try withPlayground(nodes: nodes, configuration, byRules: byRules) { playground in
        let stage = try ServiceStage(playground, servers: servers)
        defer { stage.stop() }
        try body(stage)
    }
}
