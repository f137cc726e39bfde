import CKnetBPF
public import KnetCore
public import ServiceProxyPlugin
import Synchronization

/// One thing that Services for clients outside keep in the kernel.
public enum OutsideEntry: KernelEntry {
    /// - Parameter isShared: whether every node serves it, and not this one alone.
    case frontend(PlainFrontend, isShared: Bool)

    public var id: PlainFrontend.ID { frontend.id }

    var frontend: PlainFrontend {
        switch self {
        case .frontend(let frontend, _): frontend
        }
    }

    public var description: String {
        "\(Endpoint(address: id.address, port: Int(id.port))) of transport \(id.transport) for clients outside"
    }
}

/// Services for clients outside, packet by packet: node ports, load balancers' and external addresses. Which endpoint a connection
/// goes to follows from its client alone, on every node. What a frontend needs beyond that is left to the service proxy's rules.
public final class OutsideServices: Plugin, PluginService {
    public let name = "ebpfOutside"
    public let needs = ServiceProxy.needs

    private let sight: ServiceSight
    private let kernel: PathKernel
    private let frontends: MadeOnce<FrontendMaps?>
    /// Of datagrams' frontends, since it was last settled.
    private let gone = Mutex<[GoneEndpoint]>([])
    private let shortfall = Shortfall<OutsideEntry>("clients outside are served by nftables alone")

    /// - Parameter kernel: that of the programs which balance.
    public init(_ services: ServiceProxy.Settings, kernel: PathKernel) {
        sight = ServiceSight(services)
        self.kernel = kernel
        frontends = MadeOnce {
            guard let maps = kernel.object?.maps, let frontends = maps[.outside], let slots = maps[.tables] else {
                return nil
            }
            return FrontendMaps(frontends, slots: slots)
        }
    }

    private var maps: FrontendMaps? { frontends.value }

    public func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> {
        sight.affected(by: keys, in: state)
    }

    public func entries(for key: ObjectKey, in state: ClusterState) -> [OutsideEntry] {
        guard maps != nil, key.kind == .service, let local = state.local else { return [] }
        return sight.outsideFrontends(of: key, in: state).map { frontend in
            // Of one that is the rules' nothing is in the maps.
            .frontend(frontend, isShared: frontend.size > 0 && !local.addresses.contains(frontend.id.address))
        }
    }

    public func read() throws -> [OutsideEntry] {
        shortfall.forgetAll()
        guard let maps else { return [] }
        return try maps.readWithValues().map { .frontend($0.frontend, isShared: $0.rest.contains { $0 != 0 }) }
    }

    public func apply(_ changes: KernelChanges<OutsideEntry>) -> KernelOutcome<OutsideEntry> {
        guard let maps else { return KernelOutcome() }
        let lost = GoneEndpoint.ofDatagrams(
            (changes.replaced.values + changes.remove).map(\.frontend), now: changes.add.map(\.frontend))
        gone.withLock { $0 += lost }
        for entry in changes.add {
            let old = shortfall.contains(entry) ? nil : changes.replaced[entry.id]
            _ = shortfall.attempt(entry) { try set(entry, replacing: old, maps) }
        }
        for case .frontend(let frontend, let isShared) in changes.remove {
            let entry = OutsideEntry.frontend(frontend, isShared: isShared)
            _ = shortfall.attempt(entry) { try maps.remove(frontend) }
            shortfall.forget(entry)
        }
        if !changes.remove.isEmpty {
            shortfall.retry(by: { $0.frontend.slots.count }) { try set($0, replacing: nil, maps) }
        }
        return KernelOutcome()
    }

    private func set(_ entry: OutsideEntry, replacing old: OutsideEntry?, _ maps: FrontendMaps) throws {
        guard case .frontend(let frontend, let isShared) = entry else { return }
        var known: PlainFrontend?
        if case .frontend(let before, let wasShared) = old {
            // Its value is written anew where that is another.
            known = wasShared == isShared ? before : PlainFrontend(id: before.id, size: 0, slots: before.slots)
        }
        try maps.set(
            frontend, replacing: known,
            SocketForm.number(frontend.size) + SocketForm.number(isShared ? 1 : 0))
    }

    /// Connections to what is gone are forgotten: the next packet of datagrams gets another endpoint, that of a stream a reset by the rules.
    public func settled() {
        let datagrams = gone.withLock { gone in
            defer { gone = [] }
            return gone
        }
        let streams = sight.endedStreams().map {
            GoneEndpoint(frontend: $0.frontend, address: $0.endpoint, port: nil)
        }
        let all = Dictionary(grouping: datagrams + streams, by: \.address)
        guard !all.isEmpty, let translations = kernel.object?.maps[.translations] else { return }
        // A packet meanwhile makes one way anew from the other.
        for _ in 0..<Self.mostPasses {
            var over: [[UInt8]] = []
            try? translations.visit { key, value in
                if let way = Translation(key, value),
                    all[way.endpoint.address]?.contains(where: {
                        $0.frontend == way.frontend && ($0.port ?? way.endpoint.port) == way.endpoint.port
                    }) == true
                {
                    over.append(Array(key))
                }
            }
            if over.isEmpty { return }
            for key in over { try? translations.remove(key) }
        }
    }

    private static let mostPasses = 5

    /// What an entry of `knet_translated` is about.
    private struct Translation {
        let frontend: PlainFrontend.ID
        let endpoint: (address: IPAddress, port: UInt16)

        init?(_ key: ArraySlice<UInt8>, _ value: ArraySlice<UInt8>) {
            let way = MapForm.read(key, knet_connection.self)
            let translation = MapForm.read(value, knet_translation.self)
            let isAnswer = translation.kind == KNET_TO_CLIENT.rawValue
            func end(_ address: knet_address, _ port: UInt16) -> (address: IPAddress, port: UInt16)? {
                withUnsafeBytes(of: address) { MapForm.address(Array($0)) }.map { ($0, UInt16(bigEndian: port)) }
            }
            guard
                let asked = isAnswer
                    ? end(translation.ends.0, translation.ports.0) : end(way.ends.1, way.ports.1),
                let endpoint = isAnswer
                    ? end(way.ends.0, way.ports.0) : end(translation.ends.1, translation.ports.1)
            else { return nil }
            frontend = .init(transport: way.transport, address: asked.address, port: asked.port)
            self.endpoint = endpoint
        }
    }

    // MARK: Service

    public var faults: [String] { shortfall.faults }

    /// Maps and packets are told with those between pods.
    public func describe(_ words: [String], in state: ClusterState) -> JSONValue {
        ["faults": .array(faults.map(JSONValue.string))]
    }

    public func measure(_ page: inout MetricsText, in state: ClusterState) {}
}
