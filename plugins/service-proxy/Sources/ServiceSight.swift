import HashTreeCollections
public import KnetCore
import Synchronization

/// Where this node sees Services from, and when that changes.
public final class ServiceSight: Sendable {
    private let nodePortAddresses: [CIDR]
    /// What all services were last planned with.
    private let seen = Mutex<Viewpoint?>(nil)
    private let endings = ServiceEndings()

    public init(_ settings: ServiceProxy.Settings) { nodePortAddresses = settings.nodePortAddresses }

    /// - Returns: `nil` while not everything is known: services without their endpoints would be refused.
    func viewpoint(_ state: ClusterState) -> Viewpoint? {
        guard let local = state.local, state.isUsable(ServiceProxy.needs.kinds) else { return nil }
        let zone = state.nodes[.node(local.name)]?.metadata.labels?["topology.kubernetes.io/zone"]
        let primary = local.uplinks.values.map(\.address).sorted()
        let addresses =
            nodePortAddresses.isEmpty
            ? primary : local.addresses.filter { address in nodePortAddresses.contains { $0.contains(address) } }
        return Viewpoint(node: local.name, zone: zone, nodePortAddresses: addresses)
    }

    /// This node, its pods and Services; all Services where they are seen from elsewhere than before.
    public func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> {
        let viewpoint = viewpoint(state)
        let isNew = seen.withLock { seen in
            defer { seen = viewpoint }
            return seen != viewpoint
        }
        let own = keys.filter { [.service, .attachment, .local].contains($0.kind) }
        return isNew ? own.union(state.services.keys).union([.local]) : own
    }

    /// All frontends of a Service, for a balancer that can serve the plain ones to clients on this node. The others are told
    /// too: what is theirs is nobody else's.
    public func frontends(of key: ObjectKey, in state: ClusterState) -> [PlainFrontend] {
        guard let service = state.services[key], let viewpoint = viewpoint(state) else {
            endings.note(key, nil)
            return []
        }
        let plan = ServicePlan(service, slices: state.slices(of: key), from: viewpoint)
        endings.note(key, plan)
        return plan.frontends.values.map(PlainFrontend.init).sorted { $0.id < $1.id }
    }

    /// Frontends with endpoints that are no more, since this was last asked: streams to these get no answer.
    public func endedStreams() -> [(frontend: PlainFrontend.ID, endpoint: IPAddress)] {
        endings.take().map { ($0.frontend.plain, $0.endpoint) }
    }
}

/// A frontend as a balancer without memory sees it. It is plain where any client on this node gets any of the endpoints: no
/// affinity, no hash, no refusal, nobody kept out.
public struct PlainFrontend: Hashable, Sendable {
    public struct ID: Hashable, Sendable, Comparable {
        /// IANA's number.
        public let transport: UInt8
        public let address: IPAddress
        public let port: UInt16

        public init(transport: UInt8, address: IPAddress, port: UInt16) {
            self.transport = transport
            self.address = address
            self.port = port
        }

        public static func < (a: ID, b: ID) -> Bool {
            (a.address, a.port, a.transport) < (b.address, b.port, b.transport)
        }
    }

    public struct Slot: Hashable, Sendable {
        public let number: UInt32
        public let address: IPAddress
        public let port: UInt16

        public init(number: UInt32, address: IPAddress, port: UInt16) {
            self.number = number
            self.address = address
            self.port = port
        }
    }

    public let id: ID
    /// A power of two: a draw takes one of so many slots. 0 where it is not plain.
    public let size: UInt32
    /// By number. Where a draw can meet none, the slot behind the last has an endpoint. Of one that is not plain they are told all the
    /// same.
    public let slots: [Slot]

    public init(id: ID, size: UInt32, slots: [Slot]) {
        self.id = id
        self.size = size
        self.slots = slots
    }

    init(_ frontend: Frontend) {
        var size: UInt32 = 0
        var slots: [Slot] = []
        var isPlain = frontend.id.transport != .sctp
        for fact in frontend.facts {
            switch fact {
            case .member(.balancer(.cluster, let balancer)) where balancer.method == .random:
                size = UInt32(balancer.size)
            case .slot(.cluster, let number, let backend):
                slots.append(Slot(number: number, address: backend.address, port: backend.port))
            // What clients outside get.
            case .member(.services), .member(.external), .member(.balancer(.external, _)), .member(.drop(.external)),
                .slot(.external, _, _):
                break
            default: isPlain = false
            }
        }
        self.init(id: frontend.id.plain, size: isPlain ? size : 0, slots: slots)
    }
}

extension FrontendID {
    fileprivate var plain: PlainFrontend.ID {
        PlainFrontend.ID(transport: transport.number, address: address, port: port)
    }
}
