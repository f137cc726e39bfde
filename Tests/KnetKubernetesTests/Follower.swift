import APIDouble
import FoundationEssentials
import Glibc
import KnetCore
import Logging
import NIOPosix
import TestSupport
import Testing

@testable import KnetKubernetes

/// Reflectors of a server, with a state of their own.
final class Follower: Sendable {
    let store = StateStore()
    let reflectors: [Reflector]
    let client: APIClient
    private let sink: StateSink

    static let quick: Timing = {
        var timing = Timing()
        timing.retries = .milliseconds(1)...(.milliseconds(20))
        timing.silence = .milliseconds(300)
        timing.absence = .milliseconds(20)
        timing.requestsPerSecond = 10_000
        return timing
    }()

    init(
        _ double: APIDouble, kinds: Set<ObjectKey.Kind> = ObjectKey.clusterKinds, isProtobuf: Bool = true,
        kubeconfig: String, timing: Timing = quick, servers: [String]? = nil
    ) {
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        let recovery = Recovery(logger: logger)
        let client = APIClient(
            access: .kubeconfig(path: kubeconfig, context: nil), servers: servers ?? [double.url], version: "test",
            timing: timing,
            group: MultiThreadedEventLoopGroup.singleton)
        let sink = StateSink(store: store, logger: logger)
        self.client = client
        self.sink = sink
        reflectors = kinds.sorted { $0.rawValue < $1.rawValue }.compactMap { kind in
            guard var resource = KnetKubernetes.Resource(kind) else { return nil }
            resource.isProtobuf = isProtobuf && !resource.isCustom
            return Reflector(resource, client: client, sink: sink, recovery: recovery, logger: logger)
        }
    }

    var faults: [String] { sink.faults }

    /// Follows while `body` runs.
    func run<Result: Sendable>(_ body: @Sendable () async throws -> Result) async throws -> Result {
        let following = Task { [reflectors] in
            await withDiscardingTaskGroup { group in
                for reflector in reflectors { group.addTask { await reflector.run() } }
            }
        }
        let result: Swift.Result<Result, any Error>
        do { result = .success(try await body()) } catch { result = .failure(error) }
        following.cancel()
        await following.value
        await client.shutdown()
        return try result.get()
    }

    /// Waits until the state is what the server holds.
    func agrees(
        with double: APIDouble, within seconds: Int = 10, _ comment: String = "",
        sourceLocation: SourceLocation = #_sourceLocation
    ) async {
        let deadline = ContinuousClock.now + .seconds(seconds)
        let kinds = Set(reflectors.map(\.resource.kind))
        while ContinuousClock.now < deadline {
            if store.current.isComplete(kinds), kinds.allSatisfy({ held($0) == told($0, by: double) }) { return }
            try? await Task.sleep(for: .milliseconds(2))
        }
        for kind in kinds where held(kind) != told(kind, by: double) {
            let difference = Set(held(kind).values).symmetricDifference(told(kind, by: double).values)
            Issue.record(
                "\(comment) \(kind): \(difference.map(\.key)), \(reflectors.map(\.report))",
                sourceLocation: sourceLocation)
        }
        if !store.current.isComplete(kinds) {
            Issue.record("\(comment) not complete: \(reflectors.map(\.report))", sourceLocation: sourceLocation)
        }
    }

    private func held(_ kind: ObjectKey.Kind) -> [KnetCore.ObjectKey: AnyClusterObject] {
        let state = store.current
        return Dictionary(
            uniqueKeysWithValues: state.keys(of: kind).compactMap { key in state.object(key).map { (key, $0) } })
    }

    private func told(_ kind: ObjectKey.Kind, by double: APIDouble) -> [KnetCore.ObjectKey: AnyClusterObject] {
        let objects = double.objects(Self.resource(kind)).compactMap { try? AnyClusterObject($0, kind) }
        return Dictionary(uniqueKeysWithValues: objects.map { ($0.key, $0) })
    }

    static func resource(_ kind: ObjectKey.Kind) -> APIDouble.Resource {
        switch kind {
        case .node: .nodes
        case .namespace: .namespaces
        case .pod: .pods
        case .service: .services
        case .endpointSlice: .endpointSlices
        case .clusterNetworkPolicy: .clusterNetworkPolicies
        default: .networkPolicies
        }
    }
}

/// A kubeconfig that leaves everything to the test.
func withKubeconfig<Result>(
    user: String = "{}", cluster: String = "server: \"http://127.0.0.1:1\"", _ body: (String) async throws -> Result
) async throws -> Result {
    let path =
        "\(FileManager.default.temporaryDirectory.path)/knetd-test-\(UInt32.random(in: 0...UInt32.max)).kubeconfig"
    let text = """
        current-context: test
        contexts: [{name: test, context: {cluster: c, user: u}}]
        clusters: [{name: c, cluster: {\(cluster)}}]
        users: [{name: u, user: \(user)}]
        """
    try Data(text.utf8).write(to: URL(fileURLWithPath: path))
    defer { unlink(path) }
    return try await body(path)
}

/// Objects of every kind that look the same in JSON and in the reduced protobuf.
enum Example {
    static func object(_ kind: ObjectKey.Kind, _ name: String, value: Int) -> JSONValue {
        let v = "\(value)"
        switch kind {
        case .node:
            return [
                "apiVersion": "v1", "kind": "Node", "metadata": ["name": .string(name), "labels": ["v": .string(v)]],
                "spec": ["podCIDRs": ["10.42.1.0/24"]],
                "status": ["addresses": [["type": "InternalIP", "address": .string("192.168.1.\(value % 250 + 1)")]]],
            ]
        case .namespace:
            return [
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": ["name": .string(name), "labels": ["v": .string(v)]],
            ]
        case .pod:
            return [
                "apiVersion": "v1", "kind": "Pod",
                "metadata": ["name": .string(name), "namespace": "shop", "labels": ["v": .string(v)]],
                "spec": ["nodeName": "node1"],
                "status": [
                    "phase": "Running", "podIPs": [["ip": .string("10.42.1.\(value % 250)")]],
                    "conditions": [["type": "Ready", "status": "True"]],
                ],
            ]
        case .service:
            return [
                "apiVersion": "v1", "kind": "Service", "metadata": ["name": .string(name), "namespace": "shop"],
                "spec": [
                    "clusterIP": .string("10.96.0.\(value % 250)"), "ports": [["port": 80, "targetPort": "http"]],
                ],
            ]
        case .endpointSlice:
            return [
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": [
                    "name": .string(name), "namespace": "shop", "labels": ["kubernetes.io/service-name": "web"],
                ],
                "addressType": "IPv4",
                "endpoints": [["addresses": [.string("10.42.1.\(value % 250)")], "conditions": ["ready": true]]],
                "ports": [["name": "http", "port": 80, "protocol": "TCP"]],
            ]
        case .clusterNetworkPolicy:
            return [
                "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
                "metadata": ["name": .string(name)],
                "spec": [
                    "tier": "Admin", "priority": .integer(value), "subject": ["namespaces": [:]],
                    "egress": [["action": "Deny", "to": [["networks": [.string("10.0.\(value % 250).0/24")]]]]],
                ],
            ]
        default:
            return [
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": ["name": .string(name), "namespace": "shop"],
                "spec": ["podSelector": ["matchLabels": ["v": .string(v)]], "policyTypes": ["Ingress"]],
            ]
        }
    }

    /// Writes or deletes one of few objects.
    static func change(_ double: APIDouble, _ random: inout SeededGenerator) throws {
        let kind = ObjectKey.clusterKinds.sorted { $0.rawValue < $1.rawValue }.randomElement(using: &random) ?? .node
        let name = "object-with-a-long-name-\(Int.random(in: 0..<6, using: &random))"
        if Int.random(in: 0..<4, using: &random) == 0 {
            let namespace = kind.isNamespaced ? "shop" : ""
            double.delete(Follower.resource(kind), namespace: namespace, name: name)
        } else {
            try double.put(object(kind, name, value: Int.random(in: 0..<1000, using: &random)))
        }
    }
}
