import FoundationEssentials
public import KnetCore
import KnetLinux
public import Logging
public import NIOCore
import Synchronization

/// The API server as the source of cluster state: followed while it answers, and known from a snapshot while it does not.
public final class KubernetesSource: ClusterSource {
    /// What the source must know of the node that it serves.
    public struct LocalView: Sendable {
        public let nodeName: String
        /// Annotations of this node's Node; `nil` for one that must not be there.
        public let annotations: @Sendable (LocalNode) -> [String: String?]
        /// Whether pods of this node can be reached.
        public let isUp: @Sendable () -> Bool

        public init(
            nodeName: String, annotations: @escaping @Sendable (LocalNode) -> [String: String?],
            isUp: @escaping @Sendable () -> Bool
        ) {
            self.nodeName = nodeName
            self.annotations = annotations
            self.isUp = isUp
        }
    }

    private let title: String
    private let store: StateStore
    private let sink: StateSink
    private let client: APIClient
    private let reflectors: [Reflector]
    private let publisher: NodePublisher
    private let snapshot: SnapshotKeeper?
    /// Where a plugin writes.
    private let lease: LeaseHolder?
    private let started = ContinuousClock.now

    /// - Parameters:
    ///   - needs: what is watched.
    ///   - snapshotPath: `nil` keeps none.
    ///   - writing: offered a writer where `needs` has it that something is written.
    ///   - version: of knetd, for the server's log.
    public init(
        _ settings: Configuration.Cluster.Kubernetes, needs: ClusterNeeds, local: LocalView, snapshotPath: String?,
        store: StateStore, writing: WriterExchange, version: String, group: any EventLoopGroup, logger: Logger
    ) {
        let access: AccessSource
        if let path = settings.kubeconfig {
            access = .kubeconfig(path: path, context: settings.context)
            title = "kubernetes by \(path)"
        } else {
            access = .serviceAccount(directory: ServiceAccount.directory)
            title = "kubernetes by the pod's service account"
        }
        self.store = store
        let client = APIClient(access: access, servers: settings.servers, version: version, group: group)
        self.client = client
        let sink = StateSink(store: store, logger: logger)
        self.sink = sink
        let recovery = Recovery(logger: logger)
        let resources = Self.resources(for: needs, nodeName: local.nodeName)
        reflectors = resources.map {
            Reflector($0, client: client, sink: sink, recovery: recovery, logger: logger)
        }
        publisher = NodePublisher(
            nodeName: local.nodeName, client: client, store: store, annotations: local.annotations, isUp: local.isUp,
            logger: logger)
        lease = needs.writes ? LeaseHolder(settings, nodeName: local.nodeName, client: client, logger: logger) : nil
        if let lease { writing.offer(StatusWriter(client: client, lease: lease, nodeName: local.nodeName)) }
        snapshot = snapshotPath.map {
            SnapshotKeeper(
                path: $0, kinds: Set(resources.map(\.kind)), interval: .seconds(settings.snapshotSeconds), store: store,
                sink: sink,
                logger: logger)
        }
    }

    /// What is listed and watched.
    static func resources(for needs: ClusterNeeds, nodeName: String) -> [Resource] {
        // The own Node is always needed: for the ranges, and to see what was published.
        needs.kinds.union([.node]).sorted { $0.rawValue < $1.rawValue }.compactMap { kind in
            guard var resource = Resource(kind) else { return nil }
            if kind == .pod, !needs.podsOfOtherNodes { resource.fieldSelector = "spec.nodeName=\(nodeName)" }
            return resource
        }
    }

    public func run() async {
        await snapshot?.restore()
        await withDiscardingTaskGroup { group in
            for reflector in reflectors { group.addTask { await reflector.run() } }
            group.addTask { [publisher] in await publisher.run() }
            if let snapshot { group.addTask { await snapshot.run() } }
            if let lease { group.addTask { await lease.run() } }
        }
        await client.shutdown()
    }

    public var report: SourceReport {
        let reports = reflectors.map { ($0.resource.kind, $0.report) }
        var report = SourceReport(title: title, isLive: reports.allSatisfy { $0.1.isLive })
        let state = store.current
        report.isFromSnapshot = !state.saved.isEmpty
        let own = reports.compactMap { kind, report in report.trouble.map { "\(kind.rawValue): \($0)" } }
        // One reason that all kinds have is told once.
        let troubles = reports.compactMap(\.1.trouble)
        let common = troubles.count == reports.count ? Set(troubles) : []
        report.troubles = common.count == 1 ? common.map(\.description) : own
        report.troubles += [
            publisher.trouble.map { "this Node cannot be written: \($0)" }, snapshot?.trouble,
            lease?.trouble.map { "the Lease cannot be renewed: \($0)" },
        ].compactMap { $0 }
        report.staleSeconds = report.isLive ? 0 : staleness(reports.map(\.1.heard))
        report.faults = sink.faults
        report.kinds = reports.map { kind, report in
            .init(
                kind: kind.rawValue, objects: state.count(of: kind), isLive: report.isLive, lists: report.lists,
                watches: report.watches, events: report.events)
        }
        let figures = client.figures
        report.requests = Dictionary(uniqueKeysWithValues: figures.answers.map { ("\($0.key)", $0.value) })
        if figures.failures > 0 { report.requests["failed"] = figures.failures }
        return report
    }

    private func staleness(_ heard: [ContinuousClock.Instant?]) -> Int {
        let now = ContinuousClock.now
        // A kind that was never heard is as old as the snapshot, or as this process.
        let ages = heard.map { $0.map { Int((now - $0) / .seconds(1)) } }
        let never = snapshot?.age ?? Int((now - started) / .seconds(1))
        return ages.map { $0 ?? never }.max() ?? 0
    }
}
