import HashTreeCollections
public import KnetCore
import KnetLinux

/// Services as kube-proxy serves them, by one nftables table whose rules do not depend on how many there are: every
/// Service is elements of sets.
public final class ServiceProxy: Plugin, PluginService {
    /// `plugins.serviceProxy` in the configuration.
    public struct Settings: Codable, Sendable, Equatable {
        /// Blocks of this node's addresses where node ports are served; empty: at the address towards the other nodes.
        public let nodePortAddresses: [CIDR]
        /// Ranges of ClusterIPs.
        public let serviceCIDRs: [CIDR]
        /// Where `/healthz` and `/livez` of the proxy are served; empty: nowhere.
        public let healthzAddress: String

        public init(
            nodePortAddresses: [CIDR] = [], serviceCIDRs: [CIDR] = [], healthzAddress: String = ""
        ) {
            self.nodePortAddresses = nodePortAddresses
            self.serviceCIDRs = serviceCIDRs
            self.healthzAddress = healthzAddress
        }
    }

    public static let settings = PluginSettings(
        name: "serviceProxy", isDataplane: false,
        fields: [
            Field(
                "nodePortAddresses", .list(of: .text(.cidr)), default: [],
                "Blocks of this node's addresses where node ports are served; []: at the address towards other nodes alone."
            ),
            Field(
                "serviceCIDRs", .list(of: .text(.cidr)), default: [],
                "Ranges of ClusterIPs: packets to an address there that no Service has are dropped. []: they take their way."
            ),
            Field(
                "healthzAddress", .either([.text(.endpoint), .text(.oneOf([""]))]), default: "[::]:10256",
                "Where /healthz and /livez of the proxy are served, as kube-proxy does; \"\": nowhere."),
        ])

    public let name = ServiceProxy.settings.name
    public static let needs = ClusterNeeds([.node, .service, .endpointSlice])
    public var needs: ClusterNeeds { Self.needs }

    private let options: Settings
    private let kernel: ServiceKernel
    private let health: ServiceHealth
    private let endings = ServiceEndings()
    private let delay = ProgrammingDelay()
    private let sight: ServiceSight
    private let flows: FlowExchange
    private let isBesidePrograms: Bool
    private let listener: PacketListener

    /// - Parameter isBesidePrograms: whether `ebpf` leads clients outside to the same endpoints.
    public init(
        _ settings: Settings, kernel: ServiceKernel, flows: FlowExchange = FlowExchange(),
        isBesidePrograms: Bool = false
    ) {
        self.flows = flows
        self.isBesidePrograms = isBesidePrograms
        listener = PacketListener(group: Refusal.group) { packet in
            if let event = Refusal.event(packet) { flows.tell(event) }
        }
        options = settings
        sight = ServiceSight(settings)
        self.kernel = kernel
        health = ServiceHealth(address: Endpoint(settings.healthzAddress))
    }

    public func run() async {
        if flows.isHeard { await listener.run() }
    }

    public var faults: [String] { listener.fault.map { [$0] } ?? [] }

    public func servers(
        in state: ClusterState, isHealthy: @escaping @Sendable () -> Bool
    ) -> [Endpoint: @Sendable (String) -> WebPage] {
        let isLeaving = state.local.flatMap { state.nodes[.node($0.name)] }?.metadata.isTerminating == true
        return health.servers(isEligible: !isLeaving, isHealthy: isHealthy)
    }

    /// One of the Services, by `name` or `namespace/name`, or all of them.
    public func describe(_ words: [String], in state: ClusterState) throws -> JSONValue {
        guard let viewpoint = sight.viewpoint(state) else {
            throw ServiceDescription.Unknown(description: "the cluster's Services have not been read yet")
        }
        return try ServiceDescription.all(words.first, in: state, from: viewpoint, kernel: kernel.frontends())
    }

    public func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> {
        sight.affected(by: keys, in: state)
    }

    public func entries(for key: ObjectKey, in state: ClusterState) throws -> [ServiceEntry] {
        switch key.kind {
        case .local:
            guard let local = state.local else { return [] }
            // Until Services are known, another proxy's rules may be the way to the API server.
            let ranges = sight.viewpoint(state) == nil ? [] : options.serviceCIDRs.disjoint
            let rules = ServiceRules(
                ranges: local.podCIDRs.sorted(), serviceRanges: ranges, tells: flows.isHeard,
                isBesidePrograms: isBesidePrograms)
            return [.rules(rules)]
        case .attachment: return (state.attachments[key]?.addresses ?? []).map(ServiceEntry.hairpin)
        case .service:
            guard let service = state.services[key], let viewpoint = sight.viewpoint(state) else {
                health.note(key, nil, nil)
                endings.note(key, nil)
                return []
            }
            let slices = state.slices(of: key)
            let plan = ServicePlan(service, slices: slices, from: viewpoint)
            health.note(key, service, plan)
            endings.note(key, plan)
            delay.note(slices)
            let entries =
                plan.clusterIPs.map(ServiceEntry.clusterIP)
                + plan.frontends.sorted { $0.key < $1.key }.map { ServiceEntry.frontend($0.value) }
            guard plan.problems.isEmpty else {
                throw PartlyDesired(entries, reason: plan.problems.joined(separator: "; "))
            }
            return entries
        default: return []
        }
    }

    public func read() throws -> [ServiceEntry] { try kernel.read() }

    public func apply(_ changes: KernelChanges<ServiceEntry>) -> KernelOutcome<ServiceEntry> { kernel.apply(changes) }

    public func settled() {
        let streams = endings.take()
        if !streams.isEmpty { kernel.reset(streams) }
        delay.observe()
    }

    public func measure(_ page: inout MetricsText, in state: ClusterState) {
        page.family("knetd_services", "gauge", "Services that are known.")
        page.sample("knetd_services", [:], Double(state.services.count))
        delay.measure(&page)
    }
}

extension [CIDR] {
    /// Sorted, without blocks that another one holds.
    fileprivate var disjoint: [CIDR] {
        Set(self).sorted().reduce(into: []) { kept, block in
            if kept.last?.contains(block) != true { kept.append(block) }
        }
    }
}
