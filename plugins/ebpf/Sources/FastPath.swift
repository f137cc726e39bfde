import CKnetBPF
import HashTreeCollections
public import KnetCore
import KnetLinux
import Synchronization

/// Packets between pods are taken past the host's stack, where nothing in it concerns them.
public final class FastPath: Plugin, PluginService {
    public let name = "ebpfPath"
    public let needs = ClusterNeeds([.node])

    private let dataplane: EBPF
    private let kernel: PathKernel
    private let network: Configuration.Network
    /// Why packets are not to go past the stack.
    private let obstacle: String?
    /// What else `knetd bpf` tells of.
    private let sockets: SocketServices?
    private let outside: OutsideServices?
    /// `nil` without policies.
    private let verdicts: Verdicts?
    private let flows: FlowExchange
    private let settings: PathSettings
    private let arrivals = Mutex(Arrivals())
    /// Why programs are not listened to.
    private let eventFault = Mutex<String?>(nil)

    /// - Parameters:
    ///   - obstacle: what filters in the host's stack.
    ///   - policies: who knows which connections policies admit; `nil` without policies.
    ///   - outside: Services for clients outside, by the same programs; `nil` where these are not to balance.
    public init(
        _ dataplane: EBPF, network: Configuration.Network, kernel: PathKernel, obstacle: String?,
        policies: VerdictExchange?, flows: FlowExchange, sockets: SocketServices? = nil,
        outside: OutsideServices? = nil
    ) {
        self.dataplane = dataplane
        self.network = network
        self.kernel = kernel
        self.obstacle = obstacle
        self.sockets = sockets
        self.outside = outside
        let isBalanced = outside != nil
        settings = PathSettings(
            isPoliced: policies != nil, isTold: flows.isHeard, isBalanced: isBalanced,
            isDirect: isBalanced && dataplane.configuration.directReturn)
        self.flows = flows
        verdicts = obstacle == nil ? policies.map { Verdicts(kernel, $0) } : nil
    }

    // MARK: Plugin

    public func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> {
        let isNew = arrivals.withLock { $0.follow(keys, in: state, dataplane) }
        // Without this node nothing is wanted.
        let all = keys.contains(.local) ? keys.union(state.nodes.keys).union(state.attachments.keys) : keys
        return isNew ? all.union([.local]) : all
    }

    public func entries(for key: ObjectKey, in state: ClusterState) -> [PathEntry] {
        guard obstacle == nil, kernel.refusal == nil, let local = state.local else { return [] }
        switch key.kind {
        case .local:
            return [settings(local), programs(local)].flatMap { $0 }
        case .node:
            guard let node = state.nodes[key], node.metadata.name != local.name else { return [] }
            return node.podCIDRs.filter { range in
                network.podCIDRs.contains { $0.contains(range) } && !local.podCIDRs.contains(where: range.overlaps)
            }.map(PathEntry.node)
        case .attachment: return state.attachments[key].map(entries) ?? []
        default: return []
        }
    }

    private func settings(_ local: LocalNode) -> [PathEntry] {
        var settings = settings
        // Where other nodes are reached by an uplink, its address is what they should be asked from, and that is the stack's.
        if settings.isBalanced, dataplane.configuration.transport == .vxlan {
            settings.own = Dictionary(local.podCIDRs.map { ($0.family, $0.base) }) { first, _ in first }
        }
        return settings == PathSettings() ? [] : [.settings(settings)]
    }

    private func programs(_ local: LocalNode) -> [PathEntry] {
        let uplinks = settings.isBalanced ? Set(local.uplinks.values.map(\.link)) : []
        return arrivals.withLock { $0.links }.union(uplinks).sorted().map { link in
            .program(uplinks.contains(link) ? .fromOutside : .fromNode, link: link, isCurrent: true)
        }
    }

    /// Another plugin's interfaces are that plugin's, and what is shaped is shaped in the host's stack.
    private func entries(_ attachment: Attachment) -> [PathEntry] {
        guard attachment.options.chained == nil, attachment.options.bandwidth == nil else { return [] }
        let link = attachment.hostLink
        return attachment.addresses.map { address in
            .endpoint(address, link: link, podMAC: attachment.podMAC, hostMAC: attachment.hostMAC)
        } + [.program(.fromPod, link: link, isCurrent: true)]
    }

    public func read() throws -> [PathEntry] { try kernel.read() }

    public func apply(_ changes: KernelChanges<PathEntry>) -> KernelOutcome<PathEntry> { kernel.apply(changes) }

    // MARK: Service

    public func run() async {
        // The next generation loads its own only when these are there.
        let events = try? await onOwnThread("knetd-load") { self.makeEvents() }
        if let error = await events?.run() {
            eventFault.withLock { $0 = "nobody listens to the programs: \(error)" }
        }
    }

    private func makeEvents() -> FlowEvents? {
        guard let maps = kernel.object?.maps, let ring = maps[.events] else { return nil }
        var swept: FlowMaps?
        if let flows = maps[.flows], let translations = maps[.translations], let endpoints = maps[.endpoints] {
            swept = FlowMaps(flows: flows, translations: translations, endpoints: endpoints)
        }
        return FlowEvents(ring, sweeping: swept, samplePause: .seconds(flows.sampleSeconds)) {
            [verdicts, flows] event in
            if let question = event.question {
                verdicts?.answer(question, event.links)
            } else if flows.isHeard, let told = event.told {
                flows.tell(told)
            }
        }
    }

    public var faults: [String] { kernel.faults + eventFault.withLock { $0.map { [$0] } ?? [] } }

    public func describe(_ words: [String], in state: ClusterState) throws -> JSONValue {
        let programs = try kernel.attached().map { program, links in
            program.told(as: PathRole(kernelName: program.name)?.rawValue ?? program.name, on: links.sorted())
        }
        let counters = kernel.counters()
        let packets = PathOutcome.allCases.map { outcome -> JSONValue in
            [
                "outcome": .string(outcome.name), "explanation": .string(outcome.explanation),
                "packets": .integer(Int(clamping: counters[outcome]?.packets ?? 0)),
                "bytes": .integer(Int(clamping: counters[outcome]?.bytes ?? 0)),
            ]
        }
        return [
            "mode": .string(obstacle ?? kernel.refusal ?? "past the host's stack, by \(kernel.hookName)"),
            "programs": .array(programs), "maps": .array(fills.map(\.told)), "packets": .array(packets),
            "faults": .array((faults + (outside?.faults ?? [])).map(JSONValue.string)),
            "services": try sockets?.describe([], in: state) ?? .null,
        ]
    }

    private var fills: [MapFill] {
        kernel.object?.fills([.endpoints, .nodes, .flows, .verdicts, .outside, .tables, .translations]) ?? []
    }

    public func measure(_ page: inout MetricsText, in state: ClusterState) {
        guard kernel.isLoaded else { return }
        page.family("knetd_bpf_in_use", "gauge", "Whether packets between pods go past the host's stack.")
        page.sample("knetd_bpf_in_use", [:], obstacle == nil && kernel.refusal == nil ? 1 : 0)
        fills.measure(&page, "knetd_bpf_map")
        let counters = kernel.counters()
        page.family(
            "knetd_bpf_events_lost_total", "counter", "Questions and events for which the programs' ring had no room.")
        page.sample("knetd_bpf_events_lost_total", [:], Double(kernel.lostEvents))
        page.family("knetd_bpf_packets_total", "counter", "Packets that met a program, by what became of them.")
        page.family("knetd_bpf_bytes_total", "counter", "The same in bytes.")
        for outcome in PathOutcome.allCases {
            page.sample("knetd_bpf_packets_total", ["outcome": outcome.name], Double(counters[outcome]?.packets ?? 0))
            page.sample("knetd_bpf_bytes_total", ["outcome": outcome.name], Double(counters[outcome]?.bytes ?? 0))
        }
    }
}
