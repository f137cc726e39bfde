import Glibc
import HashTreeCollections
import KnetBFD
import KnetCore
import KnetDataplane
import KnetKubernetes
import KnetLinux
import KnetManifests
import Logging
import NIOPosix
import Synchronization

/// The daemon under one configuration. A reload ends one generation and begins the next; the kernel keeps what both
/// want, and what only the first wanted is removed by the second.
final class Generation: Sendable {
    let configuration: Configuration
    let nodeName: String
    let state = StateStore()
    let source: any ClusterSource
    let dataplane: DataplanePlugin?
    var reconcilers: [any ReconcilerHandle] { followers.map(\.reconciler) }

    /// A reconciler, and which changes of the kernel concern it.
    private struct Follower {
        let reconciler: any ReconcilerHandle
        let concerns: @Sendable (KernelEvent) -> Bool
    }

    private let followers: [Follower]
    /// What plugins offer beside the kernel, by their names.
    let services: [String: any PluginService]
    private let servers: [String: PluginServers]

    private let reader: LocalNodeReader
    private let pool: NetlinkPool
    private let kernel: NetworkKernel
    /// What an earlier start found out.
    private let withoutOffload: Set<String>
    private let logger: Logger
    /// What the kernel told since it was last compared.
    private let events = Mutex<Set<KernelEvent>>([])
    /// Why this node is not known, or why what is known of it is not what its Node says now.
    private let localFault = Mutex<String?>(nil)
    private let kernelWakes: AsyncStream<Void>
    private let kernelWaker: AsyncStream<Void>.Continuation

    /// Events of the kernel within this time are answered by one comparison.
    private static let settle = Duration.milliseconds(20)

    init(
        configuration: Configuration, nodeName: String, allocations: AllocationStore, pool: NetlinkPool,
        kernel: NetworkKernel, nftables: Nftables, kept: KeptDescriptors, liveness: LivenessWatch, logger: Logger
    ) throws {
        self.configuration = configuration
        self.nodeName = nodeName
        self.pool = pool
        self.kernel = kernel
        self.logger = logger
        reader = LocalNodeReader(name: nodeName, configuration: configuration)
        (kernelWakes, kernelWaker) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))

        var dataplane: DataplanePlugin?
        var followers: [Follower] = []
        var services: [String: any PluginService] = [:]
        var servers: [String: PluginServers] = [:]
        var needs = Self.askedFor
        let writing = WriterExchange()
        let surroundings = PluginEntry.Surroundings(
            nftables: nftables, pool: pool, kept: kept, logger: logger, names: NameExchange(),
            verdicts: VerdictExchange(), flows: FlowExchange(heardBy: configuration.plugins["flows"]),
            writing: writing, liveness: liveness, configuration: configuration)
        for plugin in Plugins.all {
            guard let settings = configuration.plugins[plugin.settings.name] else {
                try plugin.remove?(surroundings)
                continue
            }
            needs = needs.union(try plugin.needs(settings))
            for made in try plugin.make(settings, surroundings) {
                switch made {
                case .dataplane(let made):
                    let plugin = DataplanePlugin(made, network: configuration.network, kernel: kernel)
                    dataplane = plugin
                    followers.append(
                        Follower(reconciler: Self.reconciler(plugin, state, configuration, logger)) { event in
                            // Tables of other plugins are theirs.
                            if case .nftables(let table) = event {
                                NetworkKernel.plainTables.contains(table)
                            } else {
                                true
                            }
                        })
                case .plugin(let plugin, let events, let service):
                    let reconciler = Self.reconciler(plugin, state, configuration, logger)
                    followers.append(
                        Follower(reconciler: reconciler) { events.contains($0) || $0 == .lost })
                    services[plugin.name] = service
                    servers[plugin.name] = PluginServers(
                        service, state: state,
                        isHealthy: { reconciler.report.isInForce && reconciler.report.otherFaults.isEmpty },
                        logger: logger)
                }
            }
        }
        self.dataplane = dataplane
        let reconcilers = followers.map(\.reconciler)
        withoutOffload = dataplane?.dataplane.triesChecksumOffload == true ? try kernel.devicesWithoutOffload() : []
        self.followers = followers
        self.services = services
        self.servers = servers
        source = Self.source(
            configuration, needs: needs, nodeName: nodeName, dataplane: dataplane, reconcilers: reconcilers,
            store: state, writing: writing, logger: logger)

        let attachments = try allocations.attachments().filter { $0.phase == .attached }
        state.update(Set(attachments.map { .attachment($0.id) })) { state in
            for attachment in attachments { state.set(attachment) }
        }
    }

    /// Kinds that are followed though no plugin needs them, so that the cost of following is measured: names of kinds in
    /// `KNETD_FOLLOW`, pods of all nodes among them.
    private static let askedFor: ClusterNeeds = {
        let names = getenv("KNETD_FOLLOW").map { String(cString: $0) } ?? ""
        let kinds = names.split(separator: ",").compactMap { ObjectKey.Kind(rawValue: String($0)) }
        return ClusterNeeds(ObjectKey.clusterKinds.intersection(kinds), podsOfOtherNodes: kinds.contains(.pod))
    }()

    private static func source(
        _ configuration: Configuration, needs: ClusterNeeds, nodeName: String, dataplane: DataplanePlugin?,
        reconcilers: [any ReconcilerHandle], store: StateStore, writing: WriterExchange, logger: Logger
    ) -> any ClusterSource {
        guard let settings = configuration.cluster.kubernetes else {
            let writer = ManifestWriter(
                path: configuration.agent.statusPath, nodeName: nodeName, store: store, logger: logger)
            writing.offer(writer)
            return ManifestSource(
                directory: configuration.cluster.manifests.directory, store: store, writer: writer, logger: logger)
        }
        let local = KubernetesSource.LocalView(
            nodeName: nodeName, annotations: { dataplane?.dataplane.nodeAnnotations(local: $0) ?? [:] },
            isUp: {
                reconcilers.allSatisfy { $0.report.isInForce && $0.report.faults[.local] == nil }
                    && store.current.local != nil && dataplane != nil
            })
        return KubernetesSource(
            settings, needs: needs, local: local,
            snapshotPath: configuration.agent.stateDirectory + "/cluster.snapshot",
            store: store, writing: writing, version: Version.current, group: MultiThreadedEventLoopGroup.singleton,
            logger: logger)
    }

    private static func reconciler(
        _ plugin: some Plugin, _ state: StateStore, _ configuration: Configuration, _ logger: Logger
    ) -> any ReconcilerHandle {
        Reconciler(
            plugin: plugin, store: state, executor: BlockingExecutor(label: "knetd.\(plugin.name)"),
            resyncInterval: .seconds(configuration.agent.resyncSeconds), logger: logger)
    }

    /// Follows source, kernel and state until the task is cancelled.
    func run() async {
        let answering = Task {
            await withTaskGroup { group in
                for service in services.values where service.answersToTheEnd { group.addTask { await service.run() } }
            }
        }
        await withTaskGroup { group in
            group.addTask { await self.source.run() }
            group.addTask { await self.followLocalNode() }
            for reconciler in reconcilers { group.addTask { await reconciler.run() } }
            for server in servers.values { group.addTask { await server.run() } }
            for service in services.values where !service.answersToTheEnd { group.addTask { await service.run() } }
            if let watch = offloadWatch { group.addTask { await watch.run() } }
        }
        answering.cancel()
        await answering.value
    }

    private var offloadWatch: OffloadWatch? {
        dataplane.flatMap {
            guard $0.dataplane.triesChecksumOffload else { return nil }
            return OffloadWatch(
                state: state, dataplane: $0.dataplane, reconcilers: reconcilers, nodeName: nodeName, logger: logger)
        }
    }

    /// The kernel told of changes that are not of our making.
    func kernelChanged(_ events: Set<KernelEvent>) {
        let ours = events.filter { event in
            switch event {
            // The link of a pod that leaves goes down too.
            case .podLinkDown(let name): state.current.attachments.values.contains { $0.hostLink == name }
            case .routeReplaced(let destination): kernel.hasRoute(to: destination)
            default: true
            }
        }
        if ours.isEmpty { return }
        self.events.withLock { $0.formUnion(ours) }
        kernelWaker.yield()
    }

    /// Keeps `state.local` as the kernel and this node's Node object have it.
    private func followLocalNode() async {
        let name = ObjectKey.node(nodeName)
        let subscription = state.follow { [kernelWaker] in kernelWaker.yield() }
        // What was told before anybody followed.
        kernelWaker.yield()
        for await _ in kernelWakes {
            let change = subscription.take()
            if !events.withLock({ $0.isEmpty }) {
                try? await Task.sleep(for: Self.settle)
                let events = events.withLock { events in
                    defer { events = [] }
                    return events
                }
                for follower in followers where events.contains(where: follower.concerns) {
                    follower.reconciler.kernelChanged()
                }
            } else if change.state.local != nil, !change.keys.contains(name) {
                continue
            }
            await refreshLocalNode()
        }
    }

    private func refreshLocalNode() async {
        let kernel: LocalNodeReader.Kernel
        do {
            kernel = try await blocking { [pool] in try LocalNodeReader.Kernel(pool: pool) }
        } catch {
            logger.warning(
                "this node's links cannot be read; trying again", metadata: ["op": "local", "reason": "\(error)"])
            try? await Task.sleep(for: .seconds(1))
            kernelChanged([.link])
            return
        }
        let state = state.current
        do {
            var local = try reader.local(state: state, kernel: kernel)
            local.faultyOffloads = state.local?.faultyOffloads ?? withoutOffload
            localFault.withLock { $0 = nil }
            guard local != state.local else { return }
            self.state.update([.local]) { $0.set(local: local) }
            logger.info(
                "local node changed",
                metadata: [
                    "node": "\(nodeName)", "op": "local",
                    "podCIDRs": "\(local.podCIDRs.map(\.description).joined(separator: ","))",
                    "uplinks":
                        "\(local.uplinks.values.map { "\($0.link) \($0.address)" }.sorted().joined(separator: ","))",
                ])
        } catch {
            // What was known stays in force.
            localFault.withLock { $0 = "\(error)" }
        }
    }

    /// Where policies hold for pods by their labels, waits for the pod to be known: the runtime hears of a pod when this node does.
    func waitForPod(_ key: ObjectKey) async {
        guard services["networkPolicy"] != nil, configuration.cluster.kubernetes != nil else { return }
        for _ in 0..<400 where state.current.pods[key] == nil { try? await Task.sleep(for: .milliseconds(5)) }
    }

    /// Whether some plugin does a kube-proxy's work.
    var hasServices: Bool { services["serviceProxy"] != nil }

    /// What is wrong with what a plugin offers beside the kernel.
    func serviceFaults(of plugin: String) -> [String] {
        (servers[plugin]?.faults ?? []) + (services[plugin]?.faults ?? [])
    }

    /// Why pods cannot be attached; empty where they can.
    var obstacles: [String] {
        let now = state.current
        guard now.isUsable([.node]) else {
            let troubles = source.report.troubles
            return troubles.isEmpty ? ["the cluster's Nodes have not been read yet"] : troubles
        }
        if let fault = localFault.withLock({ $0 }) { return [fault] }
        guard now.local != nil else { return ["this node's links have not been read yet"] }
        guard dataplane != nil else { return ["this knetd was built without a dataplane"] }
        return reconcilers.compactMap { reconciler in
            let report = reconciler.report
            if let fault = report.faults[.local] { return "\(reconciler.name): \(fault)" }
            return report.isInForce ? nil : "\(reconciler.name) is not in force yet"
        }
    }
}
