import CMnl
import Glibc
import KnetCore
import KnetLinux
import Synchronization

/// The addresses at which queries are answered: on a device whose other end lies in a network namespace that only this process
/// holds. However the process ends, the kernel takes device and addresses away, and queries go the way of any Service again; but
/// where namespace and sockets are kept for the next process, queries wait for it.
final class ServedAddresses: Sendable {
    private struct State {
        var listeners: [IPAddress: Listener] = [:]
    }

    private struct Listener {
        /// One for each thread.
        let datagrams: [SharedDescriptor]
        let streams: StreamServer
    }

    private let pool: NetlinkPool
    private let kept: KeptDescriptors
    private let servers: [DatagramServer]
    private let makeStreamServer: @Sendable (SharedDescriptor) throws -> StreamServer
    private let state = Mutex(State())

    /// Whether an earlier process or configuration served before: then queries wait until all names are known.
    let isTakenOver: Bool

    private static let port: UInt16 = 53
    /// Under which names descriptors are kept.
    private static let prefix = "dns-"
    private static let namespace = "\(prefix)namespace"
    private static func streams(_ address: IPAddress) -> String { "\(prefix)tcp-\(address.dashed)" }
    private static func datagrams(_ address: IPAddress) -> String { "\(prefix)udp-\(address.dashed)-" }
    /// Bytes of queries that wait for a thread.
    private static let receiveBuffer: Int32 = 4 << 20

    init(
        pool: NetlinkPool, kept: KeptDescriptors, servers: [DatagramServer],
        makeStreamServer: @escaping @Sendable (SharedDescriptor) throws -> StreamServer
    ) {
        self.pool = pool
        self.kept = kept
        isTakenOver = kept[Self.namespace] != nil
        self.servers = servers
        self.makeStreamServer = makeStreamServer
    }

    /// The addresses that are on the device, and whether they are listened at.
    func read() throws -> [(address: IPAddress, isServed: Bool)] {
        let served = state.withLock { Set($0.listeners.keys) }
        return try pool.with { socket in
            let links = try socket.links()
            guard
                let link = links.first(where: {
                    $0.name == DomainServiceLink.name && $0.alias == DomainServiceLink.alias
                })
            else { return [] }
            return try socket.addresses().filter { $0.index == link.index }.map {
                ($0.address, link.isUp && served.contains($0.address))
            }
        }
    }

    /// Listens first: a query that comes with the address finds somebody.
    func add(_ address: IPAddress) throws {
        if state.withLock({ $0.listeners[address] }) == nil {
            let names = servers.indices.map { "\(Self.datagrams(address))\($0)" }
            // A socket that nobody reads would have its share of the queries.
            for name in kept.names(prefix: Self.datagrams(address)) where !names.contains(name) { kept.drop(name) }
            let listener = Listener(
                datagrams: try names.map { try keptSocket($0, address, SOCK_DGRAM) },
                streams: try makeStreamServer(keptSocket(Self.streams(address), address, SOCK_STREAM)))
            for (server, socket) in zip(servers, listener.datagrams) { server.add(socket) }
            state.withLock { $0.listeners[address] = listener }
        }
        do {
            try pool.with { socket in
                let index = try device(socket)
                try socket.request(.addAddress(address, prefixLength: address.family.bits, index: index))
            }
        } catch {
            forget(address)
            throw error
        }
    }

    private func keptSocket(_ name: String, _ address: IPAddress, _ type: __socket_type) throws -> SharedDescriptor {
        if let socket = kept[name] { return socket }
        let socket = try Self.socket(address, type)
        kept.keep(socket, as: name)
        return socket
    }

    func remove(_ address: IPAddress) throws {
        defer { forget(address) }
        try pool.with { socket in
            guard let link = try? socket.link(named: DomainServiceLink.name) else { return }
            try socket.request(.deleteAddress(address, prefixLength: address.family.bits, index: link.index))
        }
    }

    /// Leaves all queries to whoever comes next.
    func stop() {
        for address in state.withLock({ Array($0.listeners.keys) }) { stopListening(at: address) }
    }

    /// Takes back what is kept; the kernel removes the device.
    static func remove(_ kept: KeptDescriptors) {
        for name in kept.names(prefix: prefix) { kept.drop(name) }
    }

    private func forget(_ address: IPAddress) {
        stopListening(at: address)
        for name in kept.names(prefix: Self.datagrams(address)) { kept.drop(name) }
        kept.drop(Self.streams(address))
    }

    private func stopListening(at address: IPAddress) {
        guard let listener = state.withLock({ $0.listeners.removeValue(forKey: address) }) else { return }
        for (server, socket) in zip(servers, listener.datagrams) { server.remove(socket) }
        listener.streams.stop()
    }

    /// - Returns: the device's index; it is made where it is not there.
    private func device(_ socket: NetlinkSocket) throws -> Int32 {
        let link = try socket.links().first { $0.name == DomainServiceLink.name }
        if let link, link.alias == DomainServiceLink.alias, link.isUp, kept[Self.namespace] != nil {
            return link.index
        }
        if let link {
            guard link.alias == DomainServiceLink.alias else {
                throw SystemError(
                    "create \(DomainServiceLink.name)", errno: EEXIST,
                    detail: "a device of this name is not knetd's; rename it")
            }
            try socket.deleteLinks([DomainServiceLink.name])
        }
        let namespace = try NetworkNamespace.anonymous()
        try socket.createVeth(
            VethRequest(
                name: DomainServiceLink.name, mac: MACAddress(derivedFrom: "dns host"), alias: DomainServiceLink.alias,
                peerName: DomainServiceLink.name, peerMAC: MACAddress(derivedFrom: "dns peer"),
                peerNamespace: namespace.number,
                mtu: 1500))
        // Without its other end up, the device has no carrier, and an address of IPv6 would never be ready.
        try namespace.run {
            let inside = try NetlinkSocket()
            try inside.request(.changeLink(index: NetlinkSocket.index(of: DomainServiceLink.name), up: true))
        }
        kept.keep(namespace.shared, as: Self.namespace)
        return try socket.link(named: DomainServiceLink.name).index
    }

    // MARK: Sockets

    private static func socket(_ address: IPAddress, _ type: __socket_type) throws -> SharedDescriptor {
        let what = "listen on \(Endpoint(address: address, port: Int(port))) (\(type == SOCK_DGRAM ? "UDP" : "TCP"))"
        let flags = Int32(type.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let socket = SharedDescriptor(
            Descriptor(owning: try syscall(what) { Glibc.socket(Int32(address.family.socketFamily), flags, 0) }))
        func set(_ level: Int32, _ option: Int32, _ value: Int32) throws {
            var value = value
            try syscall(what) { setsockopt(socket.number, level, option, &value, socklen_t(MemoryLayout<Int32>.size)) }
        }
        try set(SOL_SOCKET, SO_REUSEADDR, 1)
        if type == SOCK_DGRAM {
            try set(SOL_SOCKET, SO_REUSEPORT, 1)
            // Beyond net.core.rmem_max where that is allowed.
            try? set(SOL_SOCKET, SO_RCVBUFFORCE, receiveBuffer)
        }
        if address.family == .v6 { try set(Int32(IPPROTO_IPV6), IPV6_V6ONLY, 1) }
        // The address comes after.
        try set(Int32(IPPROTO_IP), IP_FREEBIND, 1)
        do {
            _ = try address.withSocketName(port: port) { name, length in
                try syscall(what) { bind(socket.number, name, length) }
            }
            if type == SOCK_STREAM { try syscall(what) { listen(socket.number, 1_024) } }
        } catch let error as SystemError where error.errno == EADDRINUSE {
            throw SystemError(
                what, errno: EADDRINUSE,
                detail: "another DNS server has this address on the node; stop it, or change plugins.dns")
        }
        return socket
    }
}
