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
        guard let plan = plan(of: key, in: state) else { return [] }
        return plan.frontends.values.map { PlainFrontend($0) }.sorted { $0.id < $1.id }
    }

    /// All frontends of a Service, for a balancer that can serve the plain ones to clients outside. Clients have ClusterIPs from the
    /// rules, where these are routed at all.
    public func outsideFrontends(of key: ObjectKey, in state: ClusterState) -> [PlainFrontend] {
        guard let plan = plan(of: key, in: state) else { return [] }
        let inside = Set(plan.clusterIPs)
        return plan.frontends.values.map { frontend in
            inside.contains(frontend.id.address)
                ? PlainFrontend(id: frontend.id.plain, size: 0, slots: []) : PlainFrontend(outside: frontend)
        }.sorted { $0.id < $1.id }
    }

    private func plan(of key: ObjectKey, in state: ClusterState) -> ServicePlan? {
        guard let service = state.services[key], let viewpoint = viewpoint(state) else {
            endings.note(key, nil)
            return nil
        }
        let plan = ServicePlan(service, slices: state.slices(of: key), from: viewpoint)
        endings.note(key, plan)
        return plan
    }

    /// Frontends with endpoints that are no more, since this was last asked: streams to these get no answer.
    public func endedStreams() -> [(frontend: PlainFrontend.ID, endpoint: IPAddress)] {
        endings.take().map { ($0.frontend.plain, $0.endpoint) }
    }
}
