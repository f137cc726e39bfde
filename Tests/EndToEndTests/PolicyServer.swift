import APIDouble
import KnetCore
import KnetPlayground
import Synchronization

/// An API server of the stage's nodes, which keeps ClusterNetworkPolicies too.
final class PolicyServer: Sendable {
    private let started = Mutex<PlaygroundServer?>(nil)

    /// - Returns: the configuration's `cluster`.
    func start(_ playground: Playground) throws -> JSONValue {
        let server = try PlaygroundServer(playground)
        server.double.register(.clusterNetworkPolicies)
        try server.take(playground)
        started.withLock { $0 = server }
        let path = try server.writeKubeconfig(playground)
        return ["kubernetes": ["kubeconfig": .string(path), "snapshotSeconds": 1]]
    }

    func put(_ objects: [JSONValue]) throws { try known().double.putMany(objects) }

    func delete(_ resource: APIDouble.Resource, namespace: String = "", name: String) throws {
        _ = try known().double.delete(resource, namespace: namespace, name: name)
    }

    func stop() { started.withLock { $0 }?.stop() }
    func restart() throws { try known().start() }

    private func known() throws -> PlaygroundServer {
        guard let server = started.withLock({ $0 }) else { throw Playground.Failure("the API server was not started") }
        return server
    }
}
