import CBPF
import CKnetBPF
import Glibc
import KnetCore
public import KnetLinux
public import Logging
import Synchronization

/// Reads and writes programs and maps. They are loaded when they are first needed: the kernel looks at them for some tenths of a
/// second, in which names are answered and the rules serve.
public final class PathKernel: Sendable {
    typealias Loaded = LoadedObject<PathRole, PathMap>

    private let pool: NetlinkPool
    private let hooks: ProgramHooks
    private let loading: MadeOnce<Result<Loaded, Refusal>>
    private let predecessors: Predecessors
    private let shortfall = Shortfall<PathEntry>("it goes through the host's stack")

    public init(_ settings: EBPF.Settings, pool: NetlinkPool, logger: Logger) {
        let (hooks, predecessors) = (ProgramHooks(refused: BPF.refused), Predecessors())
        (self.pool, self.hooks, self.predecessors) = (pool, hooks, predecessors)
        loading = MadeOnce {
            let loaded = Refusal.catching { try Self.load(settings, pool, hooks, predecessors) }
            if let refusal = loaded.refusal {
                // Those of an earlier process would go on by what nobody keeps true.
                try? Self.remove(pool)
                logger.warning(
                    "packets between pods go through the host's stack",
                    metadata: ["op": "load", "reason": "\(refusal)"])
            }
            return loaded
        }
    }

    /// Whether it is known if the kernel has them; what is told of them does not wait for that.
    var isLoaded: Bool { loading.isMade }

    /// `nil` where the kernel would not have them.
    var object: Loaded? { try? loading.value.get() }

    /// Why not, and the verifier's last words.
    var refusal: String? { loading.value.refusal }

    /// Maps of the programs that were at work before, in which these may go on to note connections until they are replaced.
    private final class Predecessors: Sendable {
        let maps = Mutex<[PathMap: BPFMap]>([:])
    }

    private static func load(
        _ settings: EBPF.Settings, _ pool: NetlinkPool, _ hooks: ProgramHooks, _ predecessors: Predecessors
    ) throws -> Loaded {
        if BPF.refused.contains("load") { throw Refusal(description: "refused by KNETD_BPF_REFUSE") }
        // The programs call functions of it, which a kernel without it does not have.
        try? Conntrack.load()
        let kept = mapsAtWork(try pool.with { try $0.links() }, hooks)
        let loaded = try Loaded(
            "path.o", Embedded.path,
            sizes: [
                .endpoints: settings.endpoints, .nodes: settings.nodes, .flows: settings.flows,
                .verdicts: settings.verdicts, .outside: settings.frontends, .tables: settings.slots,
                .translations: settings.translations,
            ], kept: kept)
        let others = kept.filter { name, map in
            [.flows, .translations].contains(name) && loaded.maps[name]?.info.id != map.info.id
        }
        // An earlier process may have ended between a change and its telling.
        try set(nil, loaded, isNext: true, isCatchingUp: !others.isEmpty, isLoading: true)
        predecessors.maps.withLock { $0 = others }
        return loaded
    }

    /// Takes the programs off all devices; the maps go with them.
    public static func remove(_ pool: NetlinkPool) throws {
        let hooks = ProgramHooks(refused: BPF.refused)
        var failure: SystemError?
        for link in try pool.with({ try $0.links() }) {
            do { try hooks.detach(from: link.index) } catch { failure = failure ?? error }
        }
        if let failure { throw failure }
    }

    /// A program has no more than the maps that it uses.
    private static func mapsAtWork(_ links: [Link], _ hooks: ProgramHooks) -> [PathMap: BPFMap] {
        var found: [PathMap: BPFMap] = [:]
        for link in links {
            for id in hooks.attached(to: link.index).first?.info.mapIDs ?? [] {
                guard let map = try? BPFMap(BPF.open(mapID: id)), let name = PathMap(rawValue: map.info.name) else {
                    continue
                }
                found[name] = found[name] ?? map
            }
            if found.count == PathMap.allCases.count { break }
        }
        return found
    }

    func read() throws -> [PathEntry] {
        // What is missing is wanted anew.
        shortfall.forgetAll()
        guard let object else { return [] }
        let links = try pool.with { try $0.links() }
        let names = Dictionary(links.map { ($0.index, $0.name) }) { latest, _ in latest }
        let programs = links.flatMap { link in
            hooks.attached(to: link.index).map { program -> PathEntry in
                let role = PathRole(kernelName: program.info.name)
                // One of another release is to be replaced: the link's entry is another one.
                let isCurrent = role.flatMap { object.programs[$0]?.info }.map { current in
                    current.tag == program.info.tag && Set(current.mapIDs) == Set(program.info.mapIDs)
                }
                return .program(role ?? .fromPod, link: link.name, isCurrent: isCurrent == true)
            }
        }
        return settings(object) + programs + endpoints(object, names) + nodes(object)
    }

    /// What is zero is as if it were not there.
    private func settings(_ object: Loaded) -> [PathEntry] {
        let held = Self.settings(object).wanted
        return held == PathSettings() ? [] : [.settings(held)]
    }

    private static func settings(_ object: Loaded) -> MapForm.Settings {
        object.maps[.settings]?.value([0, 0, 0, 0]).flatMap(MapForm.settings) ?? MapForm.Settings()
    }

    /// - Parameters:
    ///   - isNext: whether an endpoint has become another or has gone: what connections know of their pods holds no more.
    ///   - isCatchingUp: whether older programs may know of connections that these do not; `nil`: as it was.
    private static func set(
        _ wanted: PathSettings?, _ object: Loaded, isNext: Bool = false, isCatchingUp: Bool? = nil,
        isLoading: Bool = false
    ) throws {
        var settings = Self.settings(object)
        settings.wanted = wanted ?? settings.wanted
        settings.isCatchingUp = isCatchingUp ?? settings.isCatchingUp
        // 0 is for programs that nobody tells. Flows may be older than the number: another beginning is another number.
        settings.generation =
            settings.generation == 0
            ? UInt32.random(in: 1...UInt32.max) : max(1, isNext ? settings.generation &+ 1 : settings.generation)
        try object.maps[.settings]?.set([0, 0, 0, 0], MapForm.settings(settings), isLoading: isLoading)
    }

    private func endpoints(_ object: Loaded, _ names: [Int32: String]) -> [PathEntry] {
        guard let map = object.maps[.endpoints] else { return [] }
        return map.keys.map { key in
            guard let address = MapForm.address(key), let value = map.value(key).flatMap(MapForm.endpoint) else {
                return .unknown(map: .endpoints, key: key)
            }
            return .endpoint(
                address, link: names[value.link] ?? "#\(value.link)", podMAC: value.podMAC, hostMAC: value.hostMAC)
        }
    }

    private func nodes(_ object: Loaded) -> [PathEntry] {
        (object.maps[.nodes]?.keys ?? []).map { key in
            MapForm.range(key).map(PathEntry.node) ?? .unknown(map: .nodes, key: key)
        }
    }

    /// What is not done here leaves packets to the host's stack, which is no failure of a pod's; devices of the transport may be about
    /// to come.
    func apply(_ changes: KernelChanges<PathEntry>) -> KernelOutcome<PathEntry> {
        var outcome = KernelOutcome<PathEntry>()
        guard let object else { return outcome }
        let additions = Dictionary(grouping: changes.add, by: \.turn)
        for entry in additions.keys.sorted().flatMap({ additions[$0] ?? [] }) {
            var isOfTransport = false
            if case .program(let role, _, _) = entry { isOfTransport = role != .fromPod }
            // Between two programs with different maps a connection would be lost: what is known goes first.
            if isOfTransport { object.takeOver(predecessors.maps.withLock { $0 }) }
            // A pod's link is older than its entry: where it is not there it has gone.
            let patience = isOfTransport ? Self.patience : 1
            if let error = shortfall.attempt(entry, { try add(entry, object, patience: patience) }), isOfTransport {
                outcome.failures.append(KernelFailure(entry: entry, reason: "\(error)"))
            }
        }
        if additions.keys.contains(where: { $0 >= .pods }) { catchUp(object) }
        // In the other order.
        for entry in changes.remove.sorted(by: { $0.turn > $1.turn }) {
            _ = shortfall.attempt(entry) { try remove(entry, object) }
            shortfall.forget(entry)
        }
        // There may be room now.
        if !changes.remove.isEmpty {
            for entry in shortfall.entries { _ = shortfall.attempt(entry) { try add(entry, object) } }
        }
        return outcome
    }

    /// When all programs of others have been replaced: from then on these know all.
    private func catchUp(_ object: Loaded) {
        let others = predecessors.maps.withLock { maps in
            defer { maps = [:] }
            return maps
        }
        object.takeOver(others)
        if Self.settings(object).isCatchingUp { try? Self.set(nil, object, isCatchingUp: false) }
    }

    /// - Parameter patience: how often a device is looked for.
    private func add(_ entry: PathEntry, _ object: Loaded, patience: Int = 1) throws {
        switch entry {
        case .settings(let settings): try Self.set(settings, object)
        case .endpoint(let address, let link, let podMAC, let hostMAC):
            let index = try NetlinkSocket.index(of: link)
            let (key, value) = (
                MapForm.address(address), MapForm.endpoint(link: index, podMAC: podMAC, hostMAC: hostMAC)
            )
            let old = object.maps[.endpoints]?.value(key)
            try object.maps[.endpoints]?.set(key, value)
            if let old, old != value { try Self.set(nil, object, isNext: true) }
        case .node(let range):
            try object.maps[.nodes]?.set(MapForm.range(range), [0, 0, 0, 0])
        case .program(let role, let link, _):
            guard let program = object.programs[role] else { return }
            try hooks.attach(program.descriptor.number, to: Self.index(of: link, patience))
        case .unknown: break
        }
    }

    /// At the start the transport makes its devices at the same time.
    private static func index(of link: String, _ patience: Int) throws -> Int32 {
        for _ in 1..<patience {
            if let index = try? NetlinkSocket.index(of: link) { return index }
            usleep(5_000)
        }
        return try NetlinkSocket.index(of: link)
    }

    private static let patience = 60

    private func remove(_ entry: PathEntry, _ object: Loaded) throws {
        switch entry {
        case .settings: try Self.set(PathSettings(), object)
        case .endpoint(let address, _, _, _):
            try object.maps[.endpoints]?.remove(MapForm.address(address))
            try Self.set(nil, object, isNext: true)
        case .node(let range): try object.maps[.nodes]?.remove(MapForm.range(range))
        case .program(_, let link, _):
            // It goes with its device.
            if let index = try? NetlinkSocket.index(of: link) { try hooks.detach(from: index) }
        case .unknown(let map, let key):
            try object.maps[map]?.remove(key)
            if map == .endpoints { try Self.set(nil, object, isNext: true) }
        }
    }

    // MARK: What is told

    /// What is wrong, a line for each.
    var faults: [String] {
        guard isLoaded else { return [] }
        return refusal.map { ["packets between pods go through the host's stack: \($0)"] }
            ?? shortfall.faults + (object?.crowded([.flows, .verdicts, .translations]) ?? [])
    }

    var hookName: String { hooks == .tcx ? "tcx" : "clsact" }

    /// Programs of ours that devices have, whoever loaded them, with the names of these devices.
    func attached() throws -> [(program: BPFProgramInfo, links: [String])] {
        var found: [UInt32: (program: BPFProgramInfo, links: [String])] = [:]
        for link in try pool.with({ try $0.links() }) {
            for program in hooks.attached(to: link.index).map(\.info) {
                found[program.id, default: (program, [])].links.append(link.name)
            }
        }
        return found.values.sorted { ($0.program.name, $0.program.id) < ($1.program.name, $1.program.id) }
    }

    /// What the programs could not tell.
    var lostEvents: UInt64 {
        object?.maps[.counters]?.sums(withUnsafeBytes(of: KNET_UNTOLD.rawValue) { Array($0) }).first ?? 0
    }

    /// Packets and bytes by what became of them.
    func counters() -> [PathOutcome: (packets: UInt64, bytes: UInt64)] {
        guard let map = object?.maps[.counters] else { return [:] }
        var all: [PathOutcome: (packets: UInt64, bytes: UInt64)] = [:]
        for outcome in PathOutcome.allCases {
            let sums = map.sums(withUnsafeBytes(of: outcome.rawValue) { Array($0) })
            if sums.count == 2 { all[outcome] = (sums[0], sums[1]) }
        }
        return all
    }
}
