import HashTreeCollections
public import KnetBFD
public import KnetCore
public import Logging

/// Addresses for Services of type LoadBalancer, where no cloud gives them.
public final class LoadBalancer: Plugin, PluginService {
    /// Nothing of this plugin's is in the kernel.
    public enum Nothing: KernelEntry {
        public var id: Self { switch self {} }
        public var description: String { switch self {} }
    }

    public let name = LoadBalancer.settings.name
    /// Pods do not wait for it, nor the node.
    public let needs = ClusterNeeds([])

    private let configured: Settings
    private let loop: StatusLoop
    private let layer2: Layer2?
    private let writing: WriterExchange

    public init(_ settings: Settings, writing: WriterExchange, liveness: LivenessWatch, logger: Logger) throws {
        configured = settings
        layer2 = try settings.layer2.map { try Layer2(settings, $0, liveness: liveness) }
        // An earlier configuration may have answered; who does not must not look as if it did.
        if settings.layer2 == nil { liveness.watch([:], for: Self.settings.name) {} }
        self.writing = writing
        loop = StatusLoop(settings, kinds: Self.needs(settings).kinds, writing: writing, logger: logger)
    }

    /// What is followed.
    public static func needs(_ settings: Settings) -> ClusterNeeds {
        var kinds: Set<ObjectKey.Kind> = [.node, .service]
        if settings.pools.contains(where: { $0.namespaceSelector != nil }) { kinds.insert(.namespace) }
        if settings.layer2 != nil { kinds.insert(.endpointSlice) }
        return ClusterNeeds(kinds, writes: true)
    }

    // MARK: Plugin

    public func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> {
        loop.follow(keys, in: state)
        layer2?.follow(keys, in: state)
        return []
    }

    public func entries(for key: ObjectKey, in state: ClusterState) -> [Nothing] { [] }

    /// Called when links change, too.
    public func read() throws -> [Nothing] {
        try layer2?.useInterfaces()
        return []
    }

    public func apply(_ changes: KernelChanges<Nothing>) -> KernelOutcome<Nothing> { KernelOutcome() }

    // MARK: Service

    public func run() async {
        await withDiscardingTaskGroup { group in
            group.addTask { await self.loop.run() }
            if let layer2 { group.addTask { await layer2.run() } }
        }
    }

    public var faults: [String] { [loop.fault].compactMap(\.self) + (layer2?.faults ?? []) }

    public func describe(_ words: [String], in state: ClusterState) -> JSONValue {
        let services = state.services.values.filter { $0.spec?.type == "LoadBalancer" }.sorted { $0.key < $1.key }
        return [
            "writer": writing.writer?.elected.map(JSONValue.string) ?? .null,
            "nodes": .array(
                (layer2?.neighbours ?? []).map { ["node": .string($0.node), "liveness": .string($0.known)] }),
            "services": .array(services.map { told($0) }),
            "pools": .array(
                loop.figures.map {
                    [
                        "name": .string($0.pool), "family": .string($0.family.description), "used": .integer($0.used),
                        "of": .integer($0.of),
                    ]
                }),
        ]
    }

    private func told(_ service: Service) -> JSONValue {
        let isOurs = AddressRequest(service, class: configured.loadBalancerClass) != nil
        let condition = service.addressCondition
        var reason = condition?.message
        if !isOurs {
            reason = "of class \"\(service.spec?.loadBalancerClass ?? "")\", which this knetd leaves to others"
        } else if condition == nil {
            let writer = writing.writer?.elected
            reason = writer.map { "\($0) has not written it yet" } ?? "nobody writes for the cluster now"
        }
        return [
            "namespace": .string(service.key.namespace), "name": .string(service.key.name),
            "addresses": .array(service.balancedAddresses.map { .string($0.description) }),
            "reason": reason.map(JSONValue.string) ?? .null,
            "announced": .array(
                (layer2?.answers(of: service.key) ?? [:]).sorted { $0.key < $1.key }.map { address, answer in
                    [
                        "address": .string(address.description), "by": answer.node.map(JSONValue.string) ?? .null,
                        "reason": answer.reason.map(JSONValue.string) ?? .null,
                    ]
                }),
        ]
    }

    public func measure(_ page: inout MetricsText, in state: ClusterState) {
        page.family(
            "knetd_allocator_addresses_in_use_total", "gauge", "Addresses of a pool that Services have.")
        let figures = loop.figures
        for figure in figures {
            page.sample(
                "knetd_allocator_addresses_in_use_total",
                ["pool": figure.pool, "family": figure.family.description], Double(figure.used))
        }
        page.family("knetd_allocator_addresses_total", "gauge", "Addresses that a pool has.")
        for figure in figures {
            page.sample(
                "knetd_allocator_addresses_total", ["pool": figure.pool, "family": figure.family.description],
                Double(figure.of))
        }
        page.family("knetd_allocator_writes_total", "counter", "Statuses of Services that were written.")
        page.sample("knetd_allocator_writes_total", [:], Double(loop.writes))
        let told = layer2?.figures.sorted { $0.key < $1.key } ?? []
        for (name, help, value) in [
            ("requests_received", "Questions by ARP and NDP for an address that this node answers for.", \.requests),
            ("responses_sent", "Answers to them.", \.answers),
            ("gratuitous_sent", "Times that an address was told of unasked.", \.gratuitous),
        ] as [(String, String, KeyPath<Announcer.Figures, Int>)] where layer2 != nil {
            page.family("knetd_layer2_\(name)", "counter", help)
            for (address, figures) in told {
                page.sample("knetd_layer2_\(name)", ["ip": address.description], Double(figures[keyPath: value]))
            }
        }
        page.family("knetd_allocator_elected", "gauge", "Whether this process gives addresses.")
        page.sample("knetd_allocator_elected", [:], writing.writer?.isElected == true ? 1 : 0)
    }
}
