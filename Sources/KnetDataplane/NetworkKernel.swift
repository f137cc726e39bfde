import Glibc
public import KnetCore
public import KnetLinux
import Synchronization

/// Reads and writes `NetworkEntry`s in the network namespace in which it was made.
public final class NetworkKernel: Sendable {
    /// Its nftables tables, without their family.
    public static let plainTables = Set(
        NftablesKernel.tables.compactMap { $0.split(separator: " ").last.map(String.init) })

    private let pool: NetlinkPool
    private let tables: NftablesKernel
    private let sysctls: SysctlWatch?
    /// Destinations that had a route of ours. What stands there now was put in its place.
    private let taken = Mutex<Set<CIDR>>([])

    /// - Parameter sysctls: is to watch the settings that are kept here and of which netlink does not tell.
    public init(pool: NetlinkPool, nftables: Nftables, sysctls: SysctlWatch? = nil) {
        self.pool = pool
        self.sysctls = sysctls
        tables = NftablesKernel(nftables)
        if let port = nftables.portID { pool.adopt(port: port) }
    }

    /// Whether a route of ours is, or was until somebody replaced it, the one to `destination`.
    public func hasRoute(to destination: CIDR) -> Bool { taken.withLock { $0.contains(destination) } }

    // MARK: Reading

    /// Everything in the kernel that bears the mark of a dataplane.
    public func read() throws -> [NetworkEntry] {
        try pool.with { socket in
            let links = try socket.links()
            let names = Dictionary(links.map { ($0.index, $0.name) }) { first, _ in first }
            let devices = links.filter { $0.kind == "vxlan" && $0.alias == VXLANDevice.alias }
            let overlay = Set(devices.map(\.index))
            let podLinks = links.filter(PodLink.isPodLink)
            let pods = Set(podLinks.map(\.index))
            var entries = devices.compactMap { Self.entry($0, names: names) }
            entries += podLinks.map { link in
                var state = PodLinkState(name: link.name, routesLoopback: link.routesLoopback)
                state.isUp = link.isUp
                if state.routesLoopback { watchLoopback(of: state) }
                return .podLink(state)
            }
            if !overlay.isEmpty {
                entries += try socket.addresses().filter { overlay.contains($0.index) }.compactMap { address in
                    names[address.index].map {
                        .address(link: $0, address: address.address, prefixLength: address.prefixLength)
                    }
                }
                entries += try socket.fdb().filter { overlay.contains($0.index) && $0.mac.number != 0 }
                    .compactMap { entry in
                        names[entry.index].map { .fdb(link: $0, mac: entry.mac, destination: entry.destination) }
                    }
            }
            entries += try socket.permanentNeighbours()
                .filter { overlay.contains($0.index) || pods.contains($0.index) }
                .compactMap { neighbour in
                    names[neighbour.index].map { .neighbour(link: $0, address: neighbour.address, mac: neighbour.mac) }
                }
            for family in IPFamily.allCases {
                entries += try socket.routes(family, origin: Route.knetdOrigin).map { route in
                    .route(
                        NetworkRoute(
                            to: route.destination, via: route.gateway,
                            link: names[route.index] ?? NetlinkSocket.name(of: route.index), onlink: route.onlink))
                }
            }
            return entries + readSysctls() + (try tables.read())
        }
    }

    private func watchLoopback(of state: PodLinkState) {
        sysctls?.watch("net/ipv4/conf/\(state.name)/route_localnet")
    }

    func podLinks() throws -> [Link] { try pool.with { try $0.exactLinks().filter(PodLink.isPodLink) } }

    private static func entry(_ link: Link, names: [Int32: String]) -> NetworkEntry? {
        guard let vxlan = link.vxlan else { return nil }
        var device = VXLANDevice(
            name: link.name, mac: link.mac ?? MACAddress(number: 0), mtu: link.mtu, vni: vxlan.vni, port: vxlan.port,
            local: vxlan.local, underlay: names[vxlan.underlay] ?? "")
        device.learning = vxlan.learning
        device.isUp = link.isUp
        device.offloadsChecksums = (try? ChecksumOffload.isOn(link.name)) ?? true
        return .vxlan(device)
    }

    private func readSysctls() -> [NetworkEntry] {
        Forwarding.sysctls.values.compactMap { name in
            (try? Sysctl.read(name)).map { .sysctl(name: name, value: $0) }
        }
    }

    // MARK: Writing

    public func apply(_ changes: KernelChanges<NetworkEntry>) -> KernelOutcome<NetworkEntry> {
        var outcome = KernelOutcome<NetworkEntry>()
        do {
            try pool.with { socket in
                applyOneByOne(changes, socket, &outcome)
                // IPv6 takes no gateway for a route whose present form leads to it over another link: that goes first.
                let moved = changes.add.compactMap { changes.replaced[$0.id]?.movedIPv6Route(to: $0) }
                try send(moved, socket, &outcome, done: Self.gone) { try $0.removal() }
                let taken = taken.withLock { $0 }
                let usurped = changes.add.filter { entry in
                    changes.replaced[entry.id] == nil
                        && entry.destination.map { $0.family == .v6 && taken.contains($0) } ?? false
                }
                try send(usurped, socket, &outcome, done: Self.gone) { entry in
                    entry.destination.map { .deleteRoute(Route(destination: $0, index: 0, origin: Route.anyOrigin)) }
                }
                try send(changes.add.filter(\.isBatched).sorted { $0.rank < $1.rank }, socket, &outcome) { entry in
                    try entry.addition(
                        replacing: changes.replaced[entry.id] != nil || entry.destination.map(taken.contains) ?? false)
                }
                note(changes, outcome)
                try send(
                    changes.remove.filter(\.isBatched).sorted { $0.rank > $1.rank }, socket, &outcome, done: Self.gone
                ) {
                    try $0.removal()
                }
                try changeElements(changes, &outcome)
                for case .vxlan(let device) in changes.remove {
                    attempt(.vxlan(device), &outcome) {
                        do {
                            try socket.request(.deleteLink(name: device.name))
                        } catch let error as SystemError where error.errno == ENODEV {}
                    }
                }
            }
        } catch {
            // The socket itself failed: nothing is known of any of them.
            outcome.failures = (changes.add + changes.remove).map { KernelFailure(entry: $0, reason: "\(error)") }
            outcome.mustReadBack = true
        }
        return outcome
    }

    private func note(_ changes: KernelChanges<NetworkEntry>, _ outcome: KernelOutcome<NetworkEntry>) {
        let failed = Set(outcome.failures.map(\.entry))
        taken.withLock { taken in
            taken.subtract(changes.remove.compactMap(\.destination))
            taken.formUnion(changes.add.filter { !failed.contains($0) }.compactMap(\.destination))
        }
    }

    /// What cannot go into a batch of netlink requests, and what the batch builds on.
    private func applyOneByOne(
        _ changes: KernelChanges<NetworkEntry>, _ socket: NetlinkSocket, _ outcome: inout KernelOutcome<NetworkEntry>
    ) {
        for entry in changes.add {
            switch entry {
            case .sysctl(let name, let value):
                attempt(entry, &outcome) { try Forwarding.set(name, value, socket) }
            case .vxlan(let device):
                // Where this fails half way, the old device may be gone.
                var mustReadBack = changes.replaced[entry.id] != nil
                attempt(entry, &outcome) {
                    mustReadBack = try assert(device, replacing: changes.replaced[entry.id], socket)
                }
                if mustReadBack { outcome.mustReadBack = true }
            case .podLink(let state) where state.routesLoopback: watchLoopback(of: state)
            case .table(let table):
                var mustReadBack = false
                attempt(entry, &outcome) { mustReadBack = try tables.replace(table) }
                if mustReadBack { outcome.mustReadBack = true }
            default: break
            }
        }
        for case .table(let table) in changes.remove { attempt(.table(table), &outcome) { try tables.delete(table) } }
    }

    private func changeElements(
        _ changes: KernelChanges<NetworkEntry>, _ outcome: inout KernelOutcome<NetworkEntry>
    ) throws {
        // The elements of a table that is deleted went with it.
        let added = changes.add.compactMap(\.element)
        let removed = changes.remove.contains { $0.isTable } ? [] : changes.remove.compactMap(\.element)
        guard !added.isEmpty || !removed.isEmpty else { return }
        outcome.failures += tables.change(added: added, replaced: changes.replaced, removed: removed)
        let stale = try HostPortTable.staleConnections(added: added, removed: removed) {
            try pool.with { try $0.addresses().map(\.address) }
        }
        if !stale.isEmpty { try Conntrack().forget(stale) }
    }

    /// - Returns: whether other entries went: all that stood on a device that was made anew, the neighbours of one whose
    ///   MAC address changed.
    private func assert(_ device: VXLANDevice, replacing old: NetworkEntry?, _ socket: NetlinkSocket) throws -> Bool {
        let underlay = try NetlinkSocket.index(of: device.underlay)
        if case .vxlan(let old)? = old {
            if old.canBecome(device), let index = try? NetlinkSocket.index(of: device.name) {
                try socket.request(.changeLink(index: index, up: true, mtu: device.mtu, mac: device.mac))
                try setOffload(device, old.offloadsChecksums)
                return old.mac != device.mac
            }
            do {
                try socket.request(.deleteLink(name: device.name))
            } catch let error as SystemError where error.errno == ENODEV {}
        }
        let parameters = VXLAN(vni: device.vni, port: device.port, local: device.local, underlay: underlay)
        do {
            try socket.createVXLAN(
                name: device.name, mac: device.mac, mtu: device.mtu, alias: VXLANDevice.alias, parameters)
        } catch let error as SystemError where error.errno == EEXIST {
            // One of ours that reading missed is read now.
            if old == nil, (try? socket.link(named: device.name))?.alias == VXLANDevice.alias { return true }
            throw SystemError(
                error.operation, errno: EEXIST,
                detail: (error.detail.map { "\($0); " } ?? "")
                    + "remove the other device (Flannel's is flannel.\(device.vni)) or set another plugins.overlay.vni")
        }
        try setOffload(device, true)
        return old != nil
    }

    private func setOffload(_ device: VXLANDevice, _ present: Bool) throws {
        if device.offloadsChecksums != present { try ChecksumOffload.set(device.name, on: device.offloadsChecksums) }
    }

    /// Devices of ours whose checksums the kernel computes.
    public func devicesWithoutOffload() throws -> Set<String> {
        let devices = try pool.with { try $0.links().filter { $0.kind == "vxlan" && $0.alias == VXLANDevice.alias } }
        return Set(devices.map(\.name).filter { (try? ChecksumOffload.isOn($0)) == false })
    }

    private func send(
        _ entries: [NetworkEntry], _ socket: NetlinkSocket, _ outcome: inout KernelOutcome<NetworkEntry>,
        done: Set<Int32> = [], message: (NetworkEntry) throws -> NetlinkMessage?
    ) throws {
        var batch = NetlinkBatch()
        var sent: [NetworkEntry] = []
        for entry in entries {
            do {
                guard let message = try message(entry) else { continue }
                batch.append(message)
                sent.append(entry)
            } catch {
                outcome.failures.append(KernelFailure(entry: entry, reason: "\(error)"))
            }
        }
        for (entry, error) in zip(sent, try socket.send(batch)) {
            if let error, !done.contains(error.errno) {
                outcome.failures.append(KernelFailure(entry: entry, reason: entry.explain(error)))
            }
        }
    }

    /// What the kernel says to the removal of something that went by itself, as routes do with their link.
    private static let gone: Set<Int32> = [ESRCH, ENOENT, ENODEV, EADDRNOTAVAIL]

    private func attempt(
        _ entry: NetworkEntry, _ outcome: inout KernelOutcome<NetworkEntry>, _ body: () throws -> Void
    ) {
        do { try body() } catch { outcome.failures.append(KernelFailure(entry: entry, reason: "\(error)")) }
    }
}

extension NetworkEntry {
    /// Whether the entry is one netlink request, which can share a datagram with others.
    fileprivate var isBatched: Bool {
        switch self {
        case .podLink, .address, .neighbour, .fdb, .route: true
        case .sysctl, .vxlan, .table, .element: false
        }
    }

    fileprivate var element: NftablesElement? {
        if case .element(let element) = self { element } else { nil }
    }

    fileprivate var isTable: Bool {
        if case .table = self { true } else { false }
    }

    /// Additions go in this order, removals in the opposite one.
    fileprivate var rank: Int {
        switch self {
        case .sysctl, .vxlan, .table, .podLink, .element: 0
        case .address: 1
        case .neighbour: 2
        case .fdb: 3
        case .route(let route): route.gateway == nil ? 4 : 5
        }
    }

    /// A route's.
    fileprivate var destination: CIDR? {
        if case .route(let route) = self { route.destination } else { nil }
    }

    fileprivate func addition(replacing: Bool) throws -> NetlinkMessage? {
        switch self {
        case .address(let link, let address, let length):
            .addAddress(address, prefixLength: length, index: try NetlinkSocket.index(of: link))
        case .neighbour(let link, let address, let mac):
            .replaceNeighbour(Neighbour(index: try NetlinkSocket.index(of: link), address: address, mac: mac))
        case .fdb(let link, let mac, let destination):
            .replaceFDB(FDBEntry(index: try NetlinkSocket.index(of: link), mac: mac, destination: destination))
        case .route(let route): .addRoute(try route.resolved(), replacing: replacing)
        case .podLink(let state):
            .changeLink(
                index: try NetlinkSocket.index(of: state.name), up: true, routesLoopback: state.routesLoopback)
        case .sysctl, .vxlan, .table, .element: nil
        }
    }

    /// This entry where it is an IPv6 route and `other` puts it onto another link.
    fileprivate func movedIPv6Route(to other: NetworkEntry) -> NetworkEntry? {
        guard case .route(let old) = self, case .route(let new) = other, old.destination.family == .v6,
            old.link != new.link
        else { return nil }
        return self
    }

    /// The request that removes the entry; `nil` where it went with its link.
    fileprivate func removal() throws -> NetlinkMessage? {
        switch self {
        case .address(let link, let address, let length):
            (try? NetlinkSocket.index(of: link)).map {
                .deleteAddress(address, prefixLength: length, index: $0)
            }
        case .neighbour(let link, let address, let mac):
            (try? NetlinkSocket.index(of: link)).map {
                .deleteNeighbour(Neighbour(index: $0, address: address, mac: mac))
            }
        case .fdb(let link, let mac, let destination):
            (try? NetlinkSocket.index(of: link)).map {
                .deleteFDB(FDBEntry(index: $0, mac: mac, destination: destination))
            }
        case .route(let route): (try? route.resolved()).map { .deleteRoute($0) }
        case .sysctl, .vxlan, .table, .element, .podLink: nil
        }
    }

    fileprivate func explain(_ error: SystemError) -> String {
        if case .route = self, error.errno == EEXIST {
            return "\(error); a route to this destination that is not knetd's is in the way: remove it"
        }
        return "\(error)"
    }
}

extension NetworkRoute {
    func resolved() throws -> Route {
        Route(
            destination: destination, gateway: gateway, index: try link.map { try NetlinkSocket.index(of: $0) } ?? 0,
            onlink: onlink)
    }
}
