import CBPF
import Glibc
import KnetCore
public import KnetLinux
public import Logging
import ServiceProxyPlugin
import Synchronization

/// Reads and writes the programs and maps of Services at the socket, loaded when they are first needed. They are held beyond this
/// process: the next daemon goes on with what sockets were told. Without them the service proxy's rules serve.
public final class SocketKernel: Sendable {
    typealias Loaded = LoadedObject<SocketHook, SocketMap>

    private struct Held {
        let object: Loaded
        let frontends: FrontendMaps?
        let pinFault: String?
    }

    private let loading: MadeOnce<Result<Held, Refusal>>
    private let shortfall = Shortfall<SocketEntry>("Services are served by nftables alone")
    /// Why sockets could not be ended.
    private let endFault = Mutex<String?>(nil)

    /// - Parameter runDirectory: `agent.runDirectory`.
    public init(_ settings: EBPF.Settings, runDirectory: String, kept: KeptDescriptors, logger: Logger) {
        loading = MadeOnce {
            let loaded = Refusal.catching { try Self.load(settings, runDirectory, kept) }
            if let refusal = loaded.refusal {
                Self.remove(runDirectory: runDirectory, kept)
                logger.warning(
                    "Services are served by nftables alone", metadata: ["op": "load", "reason": "\(refusal)"])
            }
            return loaded
        }
    }

    /// Whether it is known if the kernel has them; what is told of them does not wait for that.
    var isLoaded: Bool { loading.isMade }

    private var held: Held? { try? loading.value.get() }
    private var frontends: FrontendMaps? { held?.frontends }

    /// `nil` where the kernel would not have them.
    var object: Loaded? { held?.object }

    /// Why not.
    var refusal: String? { loading.value.refusal }

    /// Why programs and maps cannot be pinned.
    var pinFault: String? { held?.pinFault }

    private static func load(
        _ settings: EBPF.Settings, _ runDirectory: String, _ kept: KeptDescriptors
    ) throws -> Held {
        if BPF.refused.contains("cgroup") { throw Refusal(description: "refused by KNETD_BPF_REFUSE") }
        // A pod can have two addresses.
        let sizes: [SocketMap: Int] = [
            .clients: settings.endpoints, .frontends: settings.frontends, .slots: settings.slots,
            .members: settings.slots, .connections: settings.peers, .datagrams: settings.peers,
        ]
        let root = try CgroupRoot.open()
        let objects = HeldObjects(runDirectory: runDirectory, kept: kept)
        let maps = SocketMap.allCases.compactMap { map in
            objects.get(map.rawValue).flatMap { try? BPFMap($0) }.map { (map, $0) }
        }
        let object = try Loaded("socket.o", Embedded.socket, sizes: sizes, kept: Dictionary(maps) { $1 })
        for (map, loaded) in object.maps { try objects.hold(loaded.descriptor, as: map.rawValue) }
        let links = try object.programs.map { try attach($0, $1.descriptor, root, objects) }
        // Those of a daemon with another folder would go first.
        try SocketLinks(of: NetworkNamespace.currentCookie()).detach(but: links)
        var frontends: FrontendMaps?
        if let found = object.maps[.frontends], let slots = object.maps[.slots] {
            frontends = FrontendMaps(found, slots: slots, members: object.maps[.members])
        }
        return Held(object: object, frontends: frontends, pinFault: objects.fault)
    }

    /// Has the programs end that mean this network namespace's sockets, whatever holds them.
    public static func remove(runDirectory: String, _ kept: KeptDescriptors) {
        let links = (try? NetworkNamespace.currentCookie()).map(SocketLinks.init)
        links?.detach()
        for folder in HeldObjects.folders { links?.unpin(in: folder) }
        HeldObjects.remove(runDirectory: runDirectory, kept: kept)
    }

    /// In the place of an older one in one step, where there is one.
    private static func attach(
        _ hook: SocketHook, _ program: SharedDescriptor, _ root: borrowing Descriptor, _ held: HeldObjects
    ) throws -> SharedDescriptor {
        if let link = held.get(hook.rawValue), bpf_link_update(link.number, program.number, nil) == 0 {
            try held.hold(link, as: hook.rawValue)
            return link
        }
        let number = bpf_link_create(program.number, root.number, hook.attachType, nil)
        try BPF.check("attach \(hook.rawValue) to the root of cgroups", number)
        let link = SharedDescriptor(Descriptor(owning: number))
        try held.hold(link, as: hook.rawValue)
        return link
    }

    // MARK: Entries

    func read() throws -> [SocketEntry] {
        // What is missing is wanted anew.
        shortfall.forgetAll()
        guard let clients = object?.maps[.clients], let frontends else { return [] }
        var entries: [SocketEntry] = []
        try clients.visit { key, _ in entries.append(.client(SocketForm.client(key))) }
        return entries + (try frontends.read()).map(SocketEntry.frontend)
    }

    func apply(_ changes: KernelChanges<SocketEntry>) -> KernelOutcome<SocketEntry> {
        for entry in changes.add {
            let old = shortfall.contains(entry) ? nil : changes.replaced[entry.id]
            _ = shortfall.attempt(entry) { try set(entry, replacing: old) }
        }
        for entry in changes.remove {
            _ = shortfall.attempt(entry) { try remove(entry) }
            shortfall.forget(entry)
        }
        if !changes.remove.isEmpty {
            // Namespaces have a map of their own.
            shortfall.retry(by: { $0.frontend?.slots.count ?? .max }) { try set($0, replacing: nil) }
        }
        return KernelOutcome()
    }

    private func set(_ entry: SocketEntry, replacing old: SocketEntry?) throws {
        switch entry {
        case .client(let cookie):
            try object?.maps[.clients]?.set(SocketForm.client(cookie), SocketForm.number(1))
        case .frontend(let frontend):
            var known: PlainFrontend?
            if case .frontend(let old) = old { known = old }
            try frontends?.set(frontend, replacing: known, SocketForm.number(frontend.size))
        }
    }

    private func remove(_ entry: SocketEntry) throws {
        switch entry {
        case .client(let cookie): try object?.maps[.clients]?.remove(SocketForm.client(cookie))
        case .frontend(let frontend): try frontends?.remove(frontend)
        }
    }

    // MARK: Sockets

    /// Ends sockets that would wait for an answer of what is gone.
    /// - Parameter namespace: by its cookie.
    func endSockets(to gone: [GoneEndpoint], namespace: (UInt64) -> NetworkNamespace?) {
        guard !gone.isEmpty, let map = object?.maps[.connections] else { return }
        var found: [Waiting: (peers: Set<Endpoint>, sockets: Set<UInt64>)] = [:]
        let byAddress = Dictionary(grouping: gone, by: \.address)
        try? map.visit { key, value in
            guard let peer = SocketForm.peer(key), let candidates = byAddress[peer.address],
                let told = SocketForm.told(value)
            else { return }
            for gone in candidates
            where (gone.port ?? peer.port) == peer.port && gone.frontend.address == told.address
                && gone.frontend.port == told.port
            {
                let waiting = Waiting(clients: told.clients, transport: gone.frontend.transport)
                found[waiting, default: ([], [])].peers.insert(Endpoint(address: peer.address, port: Int(peer.port)))
                found[waiting, default: ([], [])].sockets.insert(peer.socket)
            }
        }
        var fault: String?
        for (waiting, ends) in found {
            do {
                _ = try namespace(waiting.clients)?.run {
                    try SocketDiagnosis.end(waiting.transport, to: ends.peers, cookies: ends.sockets)
                }
            } catch {
                fault = "sockets of endpoints that are gone are not ended: \(error)"
            }
        }
        if !found.isEmpty { endFault.withLock { [fault] in $0 = fault } }
    }

    private struct Waiting: Hashable {
        let clients: UInt64
        let transport: UInt8
    }

    // MARK: What is told

    var faults: [String] {
        guard isLoaded else { return [] }
        return refusal.map { ["Services are served by nftables alone: \($0)"] }
            ?? shortfall.faults + (object?.crowded([.connections, .datagrams]) ?? [])
            + endFault.withLock { $0.map { [$0] } ?? [] }
    }

    func counters() -> [SocketOutcome: UInt64] {
        guard let map = object?.maps[.counters] else { return [:] }
        let pairs = SocketOutcome.allCases.map { outcome in
            (outcome, map.sums(SocketForm.number(outcome.rawValue)).first ?? 0)
        }
        return Dictionary(uniqueKeysWithValues: pairs)
    }
}
