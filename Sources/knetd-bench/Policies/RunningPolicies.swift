import KnetCore
import KnetLinux
import KnetPlayground
import Logging
import NetworkPolicyPlugin

/// The plugin and its reconciler over a state of its own, in the namespace of the thread that makes it.
final class RunningPolicies: Sendable {
    private let store = StateStore()
    private let reconciler: Reconciler<NetworkPolicies>
    private let task: Task<Void, Never>
    private let started: ContinuousClock.Instant

    init(_ contents: PolicyContents) throws {
        var problems: [ConfigurationProblem] = []
        let settings = Shape.object(NetworkPolicies.settings.fields).normalise([:], path: "$", problems: &problems)
        let plugin = NetworkPolicies(
            try settings.decode(), kernel: try PolicyKernel(nftables: Nftables(), pool: NetlinkPool()))
        let (objects, attachments) = (contents.objects, contents.attachments)
        let keys = objects.map(\.key) + attachments.map { ObjectKey.attachment($0.id) } + [.local]
        store.update(Set(keys), told: NetworkPolicies.needs.kinds) { state in
            state.set(local: PolicyContents.local)
            for object in objects { state.set(object) }
            for attachment in attachments { state.set(attachment) }
        }
        let reconciler = Reconciler(
            plugin: plugin, store: store, executor: BlockingExecutor(label: "bench.policies"),
            resyncInterval: .seconds(3600), logger: Logger(label: "bench") { _ in SwiftLogNoOpLogHandler() })
        self.reconciler = reconciler
        started = .now
        task = Task.detached { await reconciler.run() }
    }

    /// What is in the kernel stays there.
    func stop() { task.cancel() }

    /// - Returns: milliseconds since the start.
    /// - Throws: where anything is not in force.
    func waitUntilInForce() throws -> Double {
        try reconciler.wait(for: .local, version: store.current.version)
        let elapsed = (ContinuousClock.now - started) / .milliseconds(1)
        let report = reconciler.report
        let faults = report.faults.map { "\($0.key): \($0.value)" } + report.otherFaults
        if let fault = faults.first { throw Playground.Failure("\(faults.count) faults: \(fault)") }
        return elapsed
    }

    /// Puts the pod in the place of the one of its name.
    /// - Returns: milliseconds until that is in force.
    func change(_ pod: Pod) throws -> Double {
        let start = ContinuousClock.now
        let now = store.update([pod.key]) { $0.set(.pod(pod)) }
        try reconciler.wait(for: pod.key, version: now)
        return (ContinuousClock.now - start) / .milliseconds(1)
    }
}
