import KnetCore

/// The endpoints of a Service by port, out of all its slices.
struct Candidates {
    private struct Key: Hashable {
        let name: String
        let transport: Transport
        let family: IPFamily
    }

    private var byPort: [Key: [Backend: Candidate]] = [:]
    private(set) var problems: [String] = []

    init(_ slices: [EndpointSlice]) {
        for slice in slices { add(slice) }
    }

    /// In the order of their addresses.
    func of(_ name: String, _ transport: Transport, _ family: IPFamily) -> [Candidate] {
        (byPort[Key(name: name, transport: transport, family: family)] ?? [:]).values.sorted { $0.backend < $1.backend }
    }

    private mutating func add(_ slice: EndpointSlice) {
        guard let family = IPFamily.allCases.first(where: { $0.description == slice.addressType }) else {
            problems.append("\(slice.key): addressType \"\(slice.addressType)\" is neither IPv4 nor IPv6")
            return
        }
        let ports = (slice.ports ?? []).enumerated().compactMap { index, port -> (Key, UInt16)? in
            // A port without a number stands for all ports, which no proxy can serve.
            guard let number = port.port else { return nil }
            guard let transport = Transport(rawValue: (port.protocol ?? "TCP").lowercased()),
                let number = UInt16(exactly: number), number > 0
            else {
                problems.append("\(slice.key): ports[\(index)]: \(port.protocol ?? "TCP") \(number) cannot be served")
                return nil
            }
            return (Key(name: port.name ?? "", transport: transport, family: family), number)
        }
        for (index, endpoint) in (slice.endpoints ?? []).enumerated() {
            // The addresses of one endpoint are interchangeable (https://kubernetes.io/docs/reference/kubernetes-api/).
            guard let text = endpoint.addresses.first else {
                problems.append("\(slice.key): endpoints[\(index)] has no address")
                continue
            }
            guard let address = IPAddress(text), address.family == family, CIDR(host: address).reservedFor == nil else {
                problems.append("\(slice.key): endpoints[\(index)]: \"\(text)\" is no \(family) address of a host")
                continue
            }
            for (key, number) in ports { add(endpoint, Backend(address: address, port: number), key) }
        }
    }

    /// An endpoint that is in two slices while it moves from one to the other counts by the better word.
    private mutating func add(_ endpoint: EndpointSlice.Endpoint, _ backend: Backend, _ key: Key) {
        let ready = endpoint.conditions?.ready ?? true
        let candidate = Candidate(
            backend: backend, isReady: ready, isServing: endpoint.conditions?.serving ?? ready,
            isTerminating: endpoint.conditions?.terminating ?? false, node: endpoint.nodeName,
            zoneHints: (endpoint.hints?.forZones ?? []).map(\.name),
            nodeHints: (endpoint.hints?.forNodes ?? []).map(\.name))
        if let other = byPort[key]?[backend], other.isReady || !ready { return }
        byPort[key, default: [:]][backend] = candidate
    }
}
