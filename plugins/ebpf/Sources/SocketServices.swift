import HashTreeCollections
public import KnetCore
import KnetLinux
public import ServiceProxyPlugin
import Synchronization

/// Services at the socket: clients on this node are connected to endpoints, and their packets need no translation. What a frontend
/// needs beyond that (affinity, hashes, refusals, ranges of clients) is left to the service proxy's rules.
public final class SocketServices: Plugin, PluginService {
    public let name = "ebpfServices"
    public let needs = ServiceProxy.needs

    private let sight: ServiceSight
    /// This node's own network namespace.
    private let ownCookie: UInt64
    /// A Service that is answered on this node itself.
    private let answered: ObjectKey?
    private let kernel: SocketKernel
    /// Where the network namespaces of pods are, by attachment.
    private let namespaces = Mutex<[ObjectKey: (cookie: UInt64, path: String)]>([:])
    /// Of datagrams' frontends, since it was last settled.
    private let gone = Mutex<[GoneEndpoint]>([])

    /// - Parameter answered: `namespace/name` of a Service that is answered on this node itself.
    public init(_ services: ServiceProxy.Settings, ownCookie: UInt64, answered: String?, kernel: SocketKernel) {
        sight = ServiceSight(services)
        self.ownCookie = ownCookie
        let parts = (answered ?? "").split(separator: "/").map(String.init)
        self.answered = parts.count == 2 ? ObjectKey(.service, namespace: parts[0], name: parts[1]) : nil
        self.kernel = kernel
    }

    // MARK: Plugin

    public func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> {
        let affected = sight.affected(by: keys, in: state)
        // Nobody else has its addresses.
        let isNew = answered.map(keys.contains) ?? false
        return isNew ? affected.union(state.services.keys) : affected
    }

    private func reservedAddresses(_ state: ClusterState) -> [IPAddress] {
        let spec = answered.flatMap { state.services[$0]?.spec }
        return (spec?.clusterIPs ?? spec?.clusterIP.map { [$0] } ?? []).compactMap { IPAddress($0) }
    }

    public func entries(for key: ObjectKey, in state: ClusterState) -> [SocketEntry] {
        guard kernel.refusal == nil else { return [] }
        switch key.kind {
        case .local: return state.local == nil ? [] : [.client(ownCookie)]
        case .attachment:
            // A cookie of 0 is not known: the record was rebuilt from the kernel.
            let attachment = state.attachments[key].flatMap { $0.namespaceCookie == 0 ? nil : $0 }
            namespaces.withLock { $0[key] = attachment.map { ($0.namespaceCookie, $0.namespacePath) } }
            return attachment.map { [.client($0.namespaceCookie)] } ?? []
        case .service:
            let reserved = reservedAddresses(state)
            return sight.frontends(of: key, in: state).map { frontend in
                .frontend(
                    reserved.contains(frontend.id.address)
                        ? PlainFrontend(id: frontend.id, size: 0, slots: frontend.slots) : frontend)
            }
        default: return []
        }
    }

    public func read() throws -> [SocketEntry] { try kernel.read() }

    public func apply(_ changes: KernelChanges<SocketEntry>) -> KernelOutcome<SocketEntry> {
        let lost = GoneEndpoint.ofDatagrams(
            (changes.replaced.values + changes.remove).compactMap(\.frontend), now: changes.add.compactMap(\.frontend))
        gone.withLock { $0 += lost }
        return kernel.apply(changes)
    }

    /// Streams to a pod that ends are left alone until it is gone; datagrams are not.
    public func settled() {
        let datagrams = gone.withLock { gone in
            defer { gone = [] }
            return gone
        }
        let streams = sight.endedStreams().map {
            GoneEndpoint(frontend: $0.frontend, address: $0.endpoint, port: nil)
        }
        kernel.endSockets(to: datagrams + streams) { cookie in
            if cookie == ownCookie { return try? .current() }
            let path = namespaces.withLock { $0.values.first { $0.cookie == cookie }?.path }
            let namespace = path.flatMap { try? NetworkNamespace(path: $0) }
            // The path may lead elsewhere by now.
            return (try? namespace?.cookie()) == cookie ? namespace : nil
        }
    }

    // MARK: Service

    public var faults: [String] { kernel.faults }

    public func describe(_ words: [String], in state: ClusterState) throws -> JSONValue {
        let programs = SocketHook.allCases.compactMap { hook -> JSONValue? in
            guard let program = kernel.object?.programs[hook] else { return nil }
            let info = (try? BPF.programInfo(program.descriptor.number)) ?? program.info
            return info.told(as: hook.rawValue, on: ["the root of cgroups"])
        }
        let counters = kernel.counters()
        let sockets = SocketOutcome.allCases.map { outcome -> JSONValue in
            [
                "outcome": .string(outcome.name), "explanation": .string(outcome.explanation),
                "count": .integer(Int(clamping: counters[outcome] ?? 0)),
            ]
        }
        return [
            "mode": .string(
                kernel.refusal ?? kernel.pinFault.map { "at the socket, while this daemon runs: \($0)" }
                    ?? "at the socket"), "programs": .array(programs),
            "maps": .array(fills.map(\.told)), "sockets": .array(sockets),
            "faults": .array(faults.map(JSONValue.string)),
        ]
    }

    private var fills: [MapFill] {
        kernel.object?.fills([.clients, .frontends, .slots, .members, .connections, .datagrams]) ?? []
    }

    public func measure(_ page: inout MetricsText, in state: ClusterState) {
        guard kernel.isLoaded else { return }
        page.family("knetd_bpf_sockets_in_use", "gauge", "Whether Services are balanced at the socket.")
        page.sample("knetd_bpf_sockets_in_use", [:], kernel.refusal == nil ? 1 : 0)
        fills.measure(&page, "knetd_bpf_socket_map")
        page.family("knetd_bpf_sockets_total", "counter", "Sockets that a Service's endpoint was chosen for.")
        for (outcome, count) in kernel.counters().sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
            page.sample("knetd_bpf_sockets_total", ["outcome": outcome.name], Double(count))
        }
    }
}
