import CBPF
import Glibc
import KnetCore
public import KnetLinux
import Synchronization

/// Reads and writes programs and maps.
public final class PathKernel: Sendable {
    private let pool: NetlinkPool
    private let hooks: ProgramHooks
    /// `nil` where the kernel would not have them.
    let object: PathObject?
    /// Why not, and the verifier's last words.
    let refusal: String?
    /// What could not be added, and why.
    private let missing = Mutex<[PathEntry.ID: (entry: PathEntry, reason: String)]>([:])

    /// - Parameters:
    ///   - endpoints: addresses of this node's pods that there is room for.
    ///   - nodes: ranges of other nodes.
    ///   - refused: what is not to be used, for tests: `tcx`, `load`.
    public init(pool: NetlinkPool, endpoints: Int, nodes: Int, refused: Set<String>) {
        self.pool = pool
        hooks = ProgramHooks(refused: refused)
        do {
            if refused.contains("load") { throw PathObject.Refusal(description: "refused by KNETD_BPF_REFUSE") }
            let kept = Self.mapsAtWork(try pool.with { try $0.links() }, hooks)
            object = try PathObject(sizes: [.endpoints: endpoints, .nodes: nodes], kept: kept)
            refusal = nil
        } catch {
            object = nil
            refusal = "\(error)"
        }
    }

    /// What cannot be used, by `KNETD_BPF_REFUSE`: it shows in tests what older kernels do.
    public static var refusedByEnvironment: Set<String> {
        Set((getenv("KNETD_BPF_REFUSE").map { String(cString: $0) } ?? "").split(separator: ",").map(String.init))
    }

    /// Takes the programs off all devices; the maps go with them.
    public static func remove(_ pool: NetlinkPool) throws {
        let hooks = ProgramHooks(refused: refusedByEnvironment)
        for link in try pool.with({ try $0.links() }) { try hooks.detach(from: link.index) }
    }

    private static func mapsAtWork(_ links: [Link], _ hooks: ProgramHooks) -> [PathMap: BPFMap] {
        for link in links {
            guard let program = hooks.attached(to: link.index).first else { continue }
            let maps = program.info.mapIDs.compactMap { try? BPFMap(BPF.open(mapID: $0)) }
            return Dictionary(maps.compactMap { map in PathMap(rawValue: map.info.name).map { ($0, map) } }) { $1 }
        }
        return [:]
    }

    func read() throws -> [PathEntry] {
        guard let object else { return [] }
        let links = try pool.with { try $0.links() }
        let names = Dictionary(links.map { ($0.index, $0.name) }) { $1 }
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
        return programs + endpoints(object, names) + nodes(object)
    }

    private func endpoints(_ object: PathObject, _ names: [Int32: String]) -> [PathEntry] {
        guard let map = object.maps[.endpoints] else { return [] }
        return map.keys.map { key in
            guard let address = MapForm.address(key), let value = map.value(key).flatMap(MapForm.endpoint) else {
                return .unknown(map: .endpoints, key: key)
            }
            return .endpoint(
                address, link: names[value.link] ?? "#\(value.link)", podMAC: value.podMAC, hostMAC: value.hostMAC)
        }
    }

    private func nodes(_ object: PathObject) -> [PathEntry] {
        (object.maps[.nodes]?.keys ?? []).map { key in
            MapForm.range(key).map(PathEntry.node) ?? .unknown(map: .nodes, key: key)
        }
    }

    /// What is not done here leaves packets to the host's stack, which is no failure of a pod's; devices of the transport may be about
    /// to come.
    func apply(_ changes: KernelChanges<PathEntry>) -> KernelOutcome<PathEntry> {
        var outcome = KernelOutcome<PathEntry>()
        guard let object else { return outcome }
        for entry in changes.add {
            guard let error = attempt(entry, { try add(entry, object) }), case .program(.fromNode, _, _) = entry else {
                continue
            }
            outcome.failures.append(KernelFailure(entry: entry, reason: "\(error)"))
        }
        for entry in changes.remove {
            _ = attempt(entry) { try remove(entry, object) }
            missing.withLock { _ = $0.removeValue(forKey: entry.id) }
        }
        // There may be room now.
        if !changes.remove.isEmpty {
            for (entry, _) in missing.withLock({ $0.values }) { _ = attempt(entry) { try add(entry, object) } }
        }
        return outcome
    }

    private func attempt(_ entry: PathEntry, _ body: () throws -> Void) -> (any Error)? {
        do {
            try KernelWrites.during(1) { try body() }
            missing.withLock { _ = $0.removeValue(forKey: entry.id) }
            return nil
        } catch {
            missing.withLock { $0[entry.id] = (entry, "\(entry): \(error)") }
            return error
        }
    }

    private func add(_ entry: PathEntry, _ object: PathObject) throws {
        switch entry {
        case .endpoint(let address, let link, let podMAC, let hostMAC):
            let index = try NetlinkSocket.index(of: link)
            try object.maps[.endpoints]?.set(
                MapForm.address(address), MapForm.endpoint(link: index, podMAC: podMAC, hostMAC: hostMAC))
        case .node(let range):
            try object.maps[.nodes]?.set(MapForm.range(range), [0, 0, 0, 0])
        case .program(let role, let link, _):
            guard let program = object.programs[role] else { return }
            try hooks.attach(program.descriptor.number, to: NetlinkSocket.index(of: link))
        case .unknown: break
        }
    }

    private func remove(_ entry: PathEntry, _ object: PathObject) throws {
        switch entry {
        case .endpoint(let address, _, _, _): try object.maps[.endpoints]?.remove(MapForm.address(address))
        case .node(let range): try object.maps[.nodes]?.remove(MapForm.range(range))
        case .program(_, let link, _):
            // It goes with its device.
            if let index = try? NetlinkSocket.index(of: link) { try hooks.detach(from: index) }
        case .unknown(let map, let key): try object.maps[map]?.remove(key)
        }
    }

    // MARK: What is told

    /// What is wrong, a line for each; of many alike the first ones.
    var faults: [String] {
        if let refusal { return ["packets between pods go through the host's stack: \(refusal)"] }
        let all = missing.withLock { $0.values.map(\.reason).sorted() }
        let told = all.prefix(Self.mostFaults).map { "it goes through the host's stack: \($0)" }
        return told + (all.count > told.count ? ["\(all.count - told.count) more of these"] : [])
    }

    private static let mostFaults = 3

    var hookName: String { hooks == .tcx ? "tcx" : "clsact" }

    /// Devices with a program of ours, by role.
    func links() throws -> [PathRole: [String]] {
        let attached = try pool.with { try $0.links() }.flatMap { link in
            hooks.attached(to: link.index).compactMap { program in
                PathRole(kernelName: program.info.name).map { ($0, link.name) }
            }
        }
        return Dictionary(grouping: attached, by: \.0).mapValues { $0.map(\.1) }
    }

    /// Packets and bytes by what became of them.
    func counters() -> [PathOutcome: (packets: UInt64, bytes: UInt64)] {
        guard let map = object?.maps[.counters] else { return [:] }
        var all: [PathOutcome: (packets: UInt64, bytes: UInt64)] = [:]
        for outcome in PathOutcome.allCases {
            let key = withUnsafeBytes(of: outcome.rawValue) { Array($0) }
            // A value for each processor, each in a multiple of eight bytes.
            guard let bytes = map.value(key, bytes: map.info.valueBytes * BPF.processors) else { continue }
            let numbers = bytes.withUnsafeBytes { Array($0.bindMemory(to: UInt64.self)) }
            var sum: (packets: UInt64, bytes: UInt64) = (0, 0)
            for index in stride(from: 0, to: numbers.count - 1, by: 2) {
                sum.packets += numbers[index]
                sum.bytes += numbers[index + 1]
            }
            all[outcome] = sum
        }
        return all
    }
}
