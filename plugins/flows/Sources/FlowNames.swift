import HashTreeCollections
import KnetCore

/// Names of pods and Services by their addresses. They follow the state in proportion to what changes.
struct FlowNames {
    private struct Place: Hashable {
        let transport: UInt8
        let end: FlowEvent.End
    }

    /// Where a Service is asked for.
    private struct Places {
        var addresses: Set<IPAddress> = []
        var places: Set<Place> = []
        /// Without addresses: those are this node's.
        var nodePorts: Set<NodePort> = []
    }

    private struct NodePort: Hashable {
        let transport: UInt8
        let port: UInt16
    }

    private var pods = PodAddresses()
    private var known: [ObjectKey: Places] = [:]
    private var addresses: [IPAddress: Set<ObjectKey>] = [:]
    private var places: [Place: Set<ObjectKey>] = [:]
    private var nodePorts: [NodePort: Set<ObjectKey>] = [:]
    /// This node's own.
    private var own: Set<IPAddress> = []

    mutating func follow(_ keys: Set<ObjectKey>, in state: ClusterState) {
        pods.follow(keys, in: state)
        if keys.contains(.local) { own = Set(state.local?.addresses ?? []) }
        for key in keys where key.kind == .service {
            let old = known.removeValue(forKey: key) ?? Places()
            Self.remove(key, old.addresses, from: &addresses)
            Self.remove(key, old.places, from: &places)
            Self.remove(key, old.nodePorts, from: &nodePorts)
            guard let service = state.services[key] else { continue }
            let new = Self.places(of: service)
            known[key] = new
            for address in new.addresses { addresses[address, default: []].insert(key) }
            for place in new.places { places[place, default: []].insert(key) }
            for port in new.nodePorts { nodePorts[port, default: []].insert(key) }
        }
    }

    private static func remove<Thing: Hashable>(
        _ key: ObjectKey, _ things: Set<Thing>, from table: inout [Thing: Set<ObjectKey>]
    ) {
        for thing in things {
            table[thing]?.remove(key)
            if table[thing]?.isEmpty == true { table[thing] = nil }
        }
    }

    private static func places(of service: Service) -> Places {
        var found = Places()
        let cluster = service.spec?.clusterIPs ?? service.spec?.clusterIP.map { [$0] } ?? []
        let balanced = (service.status?.loadBalancer?.ingress ?? []).compactMap(\.ip)
        found.addresses = Set((cluster + (service.spec?.externalIPs ?? []) + balanced).compactMap { IPAddress($0) })
        for port in service.spec?.ports ?? [] {
            guard
                let transport = HostPort.Transport(rawValue: (port.protocol ?? "TCP").lowercased())?.number,
                let number = UInt16(exactly: port.port)
            else { continue }
            for address in found.addresses {
                found.places.insert(Place(transport: transport, end: .init(address, port: number)))
            }
            if let nodePort = port.nodePort.flatMap(UInt16.init(exactly:)) {
                found.nodePorts.insert(NodePort(transport: transport, port: nodePort))
            }
        }
        return found
    }

    /// `namespace/name`; `nil` where no pod, or more than one, has the address.
    func pod(at address: IPAddress) -> String? {
        guard case .pod(let key) = pods.holder(of: address) else { return nil }
        return "\(key.namespace)/\(key.name)"
    }

    /// The Service that is asked for there.
    /// - Parameter anyPort: whether one that has the address will do.
    func service(at end: FlowEvent.End, transport: UInt8, anyPort: Bool = false) -> String? {
        var keys = places[Place(transport: transport, end: end)] ?? []
        if keys.isEmpty, own.contains(end.address), let port = end.port {
            keys = nodePorts[NodePort(transport: transport, port: port)] ?? []
        }
        if keys.isEmpty, anyPort { keys = addresses[end.address] ?? [] }
        return keys.min().map { "\($0.namespace)/\($0.name)" }
    }
}
