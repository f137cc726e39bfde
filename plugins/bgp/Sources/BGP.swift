import FoundationEssentials
import Glibc
import HashTreeCollections
public import KnetBFD
public import KnetCore
public import KnetLinux
public import Logging
import NIOPosix
import Synchronization

/// Pods' and Services' addresses known to the real network by BGP, and what it knows known here.
public final class BGP: Plugin, PluginService {
    /// Routes are no entries: peers tell of them, not the cluster.
    public enum Nothing: KernelEntry {
        public var id: Self { switch self {} }
        public var description: String { switch self {} }
    }

    private struct Shared {
        var locals: LocalRoutes
        var state = ClusterState()
        var speaker: Speaker?
        var isListening = false
        var passwords = Passwords()
        /// Neighbours that BFD had up.
        var alive: Set<IPAddress> = []
        var cut: Set<IPAddress> = []
        var watched: Set<IPAddress> = []
    }

    public let name = BGP.settings.name
    /// Pods do not wait for it, nor the node.
    public let needs = ClusterNeeds([])
    public static let needs = ClusterNeeds([.node, .service, .endpointSlice])

    private let configured: Settings
    private let network: Configuration.Network
    private let routes: LearntRoutes
    private let liveness: LivenessWatch
    private let logger: Logger
    /// Whether an earlier process of this boot had sessions.
    private let isRestarting: Bool
    private let shared: Mutex<Shared>
    /// The cluster changes and passwords do: what is arranged last is the latest.
    private let arranging = Mutex(())

    /// So long routes wait to be told again after a restart, where peers do not say that they have told all.
    private static let patience = Duration.seconds(120)

    /// - Parameter runDirectory: has a mark of processes of this boot.
    public init(
        _ settings: Settings, network: Configuration.Network, pool: NetlinkPool, liveness: LivenessWatch,
        runDirectory: String, logger: Logger
    ) throws {
        configured = settings
        self.network = network
        self.liveness = liveness
        self.logger = logger
        routes = try LearntRoutes(pool: pool)
        let mark = "\(runDirectory)/bgp"
        isRestarting = FileStamp(path: mark) != nil || routes.isHeld
        try Data().write(to: URL(filePath: mark))
        shared = Mutex(Shared(locals: LocalRoutes(settings.advertise)))
    }

    /// Takes its routes away, where it is not enabled.
    public static func remove(_ pool: NetlinkPool, runDirectory: String) throws {
        unlink("\(runDirectory)/bgp")
        try LearntRoutes.remove(pool)
    }

    // MARK: Plugin

    public func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> {
        let isChanged = shared.withLock { shared in
            shared.state = state
            return shared.locals.follow(keys, in: state)
        }
        // What is told first is told whole: peers take back what they kept and do not hear again.
        guard state.local != nil, state.isUsable(Self.needs.kinds) else { return [] }
        let speaker = speaker(state)
        if isChanged || keys.contains(.local) { speaker?.tell(locals) }
        if keys.contains(where: { $0.kind == .node || $0 == .local }) { arrange() }
        return []
    }

    public func entries(for key: ObjectKey, in state: ClusterState) -> [Nothing] { [] }
    public func apply(_ changes: KernelChanges<Nothing>) -> KernelOutcome<Nothing> { KernelOutcome() }

    /// Called when links change, and from time to time.
    public func read() throws -> [Nothing] {
        try routes.compare()
        return []
    }

    private var locals: [CIDR: LocalRoute] {
        let advertise = configured.advertise
        let communities = Communities(advertise.communities)
        let route = LocalRoute(
            communities: communities?.small ?? [], largeCommunities: communities?.large ?? [],
            localPreference: UInt32(advertise.localPreference), med: advertise.med.map { UInt32($0) },
            prepend: advertise.prepend)
        return Dictionary(uniqueKeysWithValues: shared.withLock { $0.locals.prefixes }.map { ($0, route) })
    }

    /// The speaker, once this node is known.
    private func speaker(_ state: ClusterState) -> Speaker? {
        guard let local = state.local else { return nil }
        let (speaker, isNew) = shared.withLock { shared -> (Speaker, Bool) in
            if let speaker = shared.speaker { return (speaker, false) }
            let router = Router(
                localAS: UInt32(configured.as), identifier: identifier(local), isReflector: isReflector(local, state),
                isRestarting: isRestarting)
            let speaker = Speaker(
                router, routes: routes, loop: MultiThreadedEventLoopGroup.singleton.next(), logger: logger)
            shared.speaker = speaker
            return (speaker, true)
        }
        if isNew {
            speaker.tell(locals)
            arrange()
        }
        return speaker
    }

    private func isReflector(_ local: LocalNode, _ state: ClusterState) -> Bool {
        let labels = state.nodes[.node(local.name)]?.metadata.labels ?? [:]
        return configured.mesh?.reflectors.map { LabelMatcher($0).matches(labels) } ?? false
    }

    private func identifier(_ local: LocalNode) -> UInt32 {
        for address in [configured.routerID, local.uplinks[.v4]?.address] {
            if case .v4(let number)? = address { return number }
        }
        return UInt32(truncatingIfNeeded: StableHash.of(local.name)) | 1
    }

    /// Has the sessions that the cluster and the configuration ask for.
    private func arrange() {
        arranging.withLock { _ in
            let (state, speaker, before) = shared.withLock { ($0.state, $0.speaker, $0.passwords) }
            guard let local = state.local, let speaker else { return }
            speaker.reflect(isReflector(local, state))
            let passwords = Passwords(
                files: Set((configured.peers.map(\.passwordFile) + [configured.mesh?.passwordFile]).compactMap(\.self)),
                after: before)
            let peers = Peers(settings: configured, network: network, passwords: passwords.texts)
            guard let wanted = peers.wanted(in: state, identifier: identifier(local)) else { return }
            speaker.have(wanted.peers, wanted.ranges)
            shared.withLock {
                $0.passwords = passwords
                $0.watched = Set(wanted.live.keys)
            }
            watch(wanted.live)
        }
    }

    private func watch(_ live: [IPAddress: Settings.Liveness]) {
        let paces = live.mapValues {
            LivenessWatch.Pace(interval: $0.interval, multiplier: $0.multiplier, hasFarewell: false)
        }
        liveness.watch(paces, for: name) { [weak self] in self?.livenessChanged() }
        // Neighbours may be up since an earlier configuration.
        livenessChanged()
    }

    /// A peer that was there and fell silent is cut off until it is back (RFC 5882 §10.1).
    private func livenessChanged() {
        let (gone, back, speaker) = shared.withLock { shared -> (Set<IPAddress>, Set<IPAddress>, Speaker?) in
            var (gone, back): (Set<IPAddress>, Set<IPAddress>) = ([], [])
            for address in shared.watched {
                switch liveness.neighbour(address)?.liveness {
                case .up:
                    shared.alive.insert(address)
                    if shared.cut.remove(address) != nil { back.insert(address) }
                case .silent where shared.alive.remove(address) != nil:
                    shared.cut.insert(address)
                    gone.insert(address)
                default: break
                }
            }
            return (gone, back, shared.speaker)
        }
        for address in gone { speaker?.event(.stop(.cease(.bfdDown)), PeerKey(address: address)) }
        for address in back { speaker?.event(.start(isRestarting: false), PeerKey(address: address)) }
    }

    // MARK: Service

    public func run() async {
        while !Task.isCancelled {
            if let speaker = shared.withLock(\.speaker) {
                let mustListen = shared.withLock { shared in
                    defer { shared.isListening = true }
                    return !shared.isListening && configured.port != 0
                }
                if mustListen { await speaker.listen(configured.port) }
                finishRestart(speaker)
                let passwords = shared.withLock(\.passwords)
                if !passwords.areCurrent { arrange() }
            }
            try? await Task.sleep(for: .milliseconds(250))
        }
        await shared.withLock(\.speaker)?.stop()
    }

    /// Once peers have told all.
    private func finishRestart(_ speaker: Speaker) {
        guard routes.isHeld || speaker.isDeferring, let arranged = speaker.arranged else { return }
        let (router, now) = (speaker.router, speaker.now)
        let isOver = ContinuousClock.now - arranged > Self.patience
        // Who may come by a range is not known.
        let mayKnow = !speaker.hasRanges
        if isOver || mayKnow && router.mayEndDeferral(now: now) { speaker.endDeferral() }
        if routes.isHeld, isOver || mayKnow && router.hasHeardAll(now: now) { routes.release() }
    }

    public var faults: [String] {
        let (speaker, passwords) = shared.withLock { ($0.speaker, $0.passwords) }
        var faults = passwords.faults + [speaker?.fault].compactMap(\.self)
        if !configured.peers.allSatisfy({ $0.bfd == nil }) || configured.mesh?.bfd != nil {
            faults += [liveness.fault].compactMap(\.self)
        }
        for (key, peer) in speaker?.router.peers.sorted(by: { $0.key < $1.key }) ?? []
        where !peer.settings.session.isDynamic {
            if peer.session.state != .established, let reason = peer.session.lastDown {
                faults.append("peer \(key) is \(peer.session.state.rawValue): \(reason)")
            }
        }
        for (prefix, reason) in routes.refused.sorted(by: { $0.key < $1.key }).prefix(5) {
            faults.append("route to \(prefix): \(reason)")
        }
        return faults
    }

    public func describe(_ words: [String], in state: ClusterState) throws -> JSONValue {
        guard let speaker = shared.withLock(\.speaker) else { return [] }
        let view = RouterView(speaker.router, now: speaker.now, barred: speaker.barred, liveness: liveness)
        switch words.first {
        case "routes": return view.routes(refused: routes.refused)
        case "peers", nil: return view.peers
        default: throw UnknownWord()
        }
    }

    private struct UnknownWord: Error, CustomStringConvertible {
        var description: String { "ask for peers or routes" }
    }

    public func measure(_ page: inout MetricsText, in state: ClusterState) {
        guard let speaker = shared.withLock(\.speaker) else { return }
        RouterView(speaker.router, now: speaker.now, barred: speaker.barred, liveness: liveness).measure(&page)
        page.family("knetd_bgp_kernel_routes", "gauge", "Learnt routes that the kernel has.")
        page.sample("knetd_bgp_kernel_routes", [:], Double(routes.count))
    }
}
