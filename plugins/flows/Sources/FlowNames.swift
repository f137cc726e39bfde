import HashTreeCollections
import KnetCore

/// Names of pods and Services by their addresses. They follow the state in proportion to what changes.
struct FlowNames {
    private var pods = PodAddresses()
    private var services: [FlowEvent.End: Set<ObjectKey>] = [:]
    private var endsOfService: [ObjectKey: Set<FlowEvent.End>] = [:]
    private var nodePorts: [UInt16: ObjectKey] = [:]
    /// This node's own.
    private var own: Set<IPAddress> = []

    mutating func follow(_ keys: Set<ObjectKey>, in state: ClusterState) {
        pods.follow(keys, in: state)
        if keys.contains(.local) { own = Set(state.local?.addresses ?? []) }
        for key in keys where key.kind == .service {
            for end in endsOfService.removeValue(forKey: key) ?? [] {
                services[end]?.remove(key)
                if services[end]?.isEmpty == true { services[end] = nil }
            }
            nodePorts = nodePorts.filter { $0.value != key }
            guard let service = state.services[key] else { continue }
            let addresses = service.servedAddresses
            for port in (service.spec?.ports ?? []).map(\.port).compactMap(UInt16.init(exactly:)) {
                for address in addresses {
                    services[.init(address, port: port), default: []].insert(key)
                    endsOfService[key, default: []].insert(.init(address, port: port))
                }
            }
            for port in (service.spec?.ports ?? []).compactMap(\.nodePort).compactMap(UInt16.init(exactly:)) {
                nodePorts[port] = key
            }
        }
    }

    /// `namespace/name`; `nil` where no pod, or more than one, has the address.
    func pod(at address: IPAddress) -> String? {
        guard case .pod(let key) = pods.holder(of: address) else { return nil }
        return "\(key.namespace)/\(key.name)"
    }

    /// The Service that is asked for there.
    func service(at end: FlowEvent.End) -> String? {
        let key = services[end]?.min() ?? (own.contains(end.address) ? end.port.flatMap { nodePorts[$0] } : nil)
        return key.map { "\($0.namespace)/\($0.name)" }
    }
}

extension Service {
    /// Where it is served, but for node ports.
    fileprivate var servedAddresses: Set<IPAddress> {
        let cluster = spec?.clusterIPs ?? spec?.clusterIP.map { [$0] } ?? []
        let balanced = (status?.loadBalancer?.ingress ?? []).compactMap(\.ip)
        return Set((cluster + (spec?.externalIPs ?? []) + balanced).compactMap { IPAddress($0) })
    }
}
