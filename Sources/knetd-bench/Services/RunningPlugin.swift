import KnetCore
import KnetLinux
import Logging

/// A plugin and its reconciler over a state of its own.
final class RunningPlugin<P: Plugin>: Sendable {
    private let store = StateStore()
    private let contents: ServiceContents
    private let reconciler: Reconciler<P>
    private let task: Task<Void, Never>
    private let started: ContinuousClock.Instant

    init(_ plugin: P, _ contents: ServiceContents) {
        self.contents = contents
        let objects = contents.objects
        store.update(Set(objects.map(\.key)).union([.local]), told: plugin.needs.kinds) { state in
            state.set(local: ServiceContents.local)
            for object in objects { state.set(object) }
        }
        let logger = Logger(label: "bench") { _ in SwiftLogNoOpLogHandler() }
        let reconciler = Reconciler(
            plugin: plugin, store: store, executor: BlockingExecutor(label: "bench.services"),
            resyncInterval: .seconds(3600), logger: logger)
        self.reconciler = reconciler
        started = .now
        task = Task.detached { await reconciler.run() }
    }

    func stop() { task.cancel() }

    /// - Returns: milliseconds since the start.
    func waitUntilInForce() throws -> Double {
        try reconciler.wait(for: .local, version: store.current.version)
        return (ContinuousClock.now - started) / .milliseconds(1)
    }

    /// Replaces one endpoint of the service.
    /// - Returns: milliseconds until that is in force.
    func change(_ service: Int, version: Int) throws -> Double {
        let slice = AnyClusterObject.endpointSlice(contents.slice(service, version: version))
        let start = ContinuousClock.now
        let now = store.update([slice.key]) { $0.set(slice) }
        try reconciler.wait(for: contents.service(service).key, version: now)
        return (ContinuousClock.now - start) / .milliseconds(1)
    }

    /// Adds one more service, which leads to a real server.
    func serve(_ address: IPAddress, port: UInt16) throws {
        let objects = contents.probe(address, port: port)
        let now = store.update(Set(objects.map(\.key))) { state in for object in objects { state.set(object) } }
        try reconciler.wait(for: objects[0].key, version: now)
    }
}
