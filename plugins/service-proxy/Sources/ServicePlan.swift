import KnetCore

/// Where services are seen from.
struct Viewpoint: Hashable, Sendable {
    let node: String
    let zone: String?
    /// Where node ports are served.
    let nodePortAddresses: [IPAddress]
}

/// What one Service needs in the kernel of this node, and what is wrong with it.
struct ServicePlan {
    private(set) var frontends: [FrontendID: Frontend] = [:]
    private(set) var clusterIPs: [IPAddress] = []
    /// The ports with their endpoints and why one is not used.
    private(set) var ports: [Port] = []
    private(set) var problems: [String] = []
    /// Endpoints on this node, for the health check of a load balancer.
    private(set) var localEndpoints: Set<IPAddress> = []

    struct Port {
        let name: String
        let transport: Transport
        let port: UInt16
        let family: IPFamily
        let choice: EndpointChoice
        let frontends: [FrontendID]
    }

    /// Such a Service is another proxy's.
    static let proxyNameLabel = "service.kubernetes.io/service-proxy-name"
    static let headlessLabel = "service.kubernetes.io/headless"
    /// `random`, `source-hash` or `consistent`.
    static let balanceAnnotation = "knetd.io/balance"
    /// Three hours, the API's default.
    static let defaultAffinity = 10_800

    /// Whether a Service is for this proxy at all.
    static func concerns(_ service: Service) -> Bool {
        let labels = service.metadata.labels ?? [:]
        guard labels[proxyNameLabel] == nil, labels[headlessLabel] == nil, let spec = service.spec else { return false }
        return spec.type != "ExternalName" && !addresses(of: spec).isEmpty
    }

    private static func addresses(of spec: Service.Spec) -> [String] {
        (spec.clusterIPs ?? spec.clusterIP.map { [$0] } ?? []).filter { $0 != "None" && !$0.isEmpty }
    }

    init(_ service: Service, slices: [EndpointSlice], from viewpoint: Viewpoint) {
        guard Self.concerns(service), let spec = service.spec else { return }
        clusterIPs = usable(Self.addresses(of: spec), "spec.clusterIPs")
        let families = Set(clusterIPs.map(\.family))
        let candidates = Candidates(slices)
        problems += candidates.problems
        var names: Set<String> = []
        for (index, port) in (spec.ports ?? []).enumerated() {
            let place = "spec.ports[\(index)]"
            guard let transport = Transport(rawValue: (port.protocol ?? "TCP").lowercased()) else {
                problems.append("\(place).protocol: \"\(port.protocol ?? "")\" is none of TCP, UDP, SCTP")
                continue
            }
            guard let number = UInt16(exactly: port.port), number > 0 else {
                problems.append("\(place).port: \(port.port) is not in 1…65535")
                continue
            }
            guard names.insert(port.name ?? "").inserted else {
                problems.append("\(place).name: \"\(port.name ?? "")\" is another port's name too")
                continue
            }
            for family in IPFamily.allCases where families.contains(family) {
                let choice = EndpointChoice(
                    candidates.of(port.name ?? "", transport, family), node: viewpoint.node, zone: viewpoint.zone)
                if choice.everywhere.count > Slots.limit {
                    problems.append("\(place): \(choice.everywhere.count) endpoints; \(Slots.limit) are allowed")
                    continue
                }
                let added = add(
                    spec, annotations: service.metadata.annotations ?? [:], port: port, place: place, number, transport,
                    family, choice, status: service.status, viewpoint: viewpoint)
                localEndpoints.formUnion(choice.here.map(\.address))
                ports.append(
                    Port(
                        name: port.name ?? "", transport: transport, port: number, family: family, choice: choice,
                        frontends: added.sorted()))
            }
        }
    }

    /// - Returns: the frontends that are this port's.
    private mutating func add(
        _ spec: Service.Spec, annotations: [String: String], port: Service.Port, place: String, _ number: UInt16,
        _ transport: Transport, _ family: IPFamily, _ choice: EndpointChoice, status: Service.Status?,
        viewpoint: Viewpoint
    ) -> [FrontendID] {
        var added: [FrontendID] = []
        var facts = Facts(choice, method: method(annotations), affinity: affinity(spec))
        func add(_ address: IPAddress, _ port: UInt16, _ facts: [Fact], _ what: String) {
            let id = FrontendID(transport: transport, address: address, port: port)
            let frontend = Frontend(id: id, facts: facts)
            if let other = frontends[id] {
                if other != frontend {
                    problems.append("\(place): \(what) \(id) is taken by another port of the Service")
                }
            } else {
                frontends[id] = frontend
                added.append(id)
            }
        }

        let inside = facts.inside(isLocal: spec.internalTrafficPolicy == "Local")
        for address in clusterIPs where address.family == family { add(address, number, inside, "ClusterIP") }

        let outside = facts.outside(isLocal: spec.externalTrafficPolicy == "Local")
        for address in usable(spec.externalIPs ?? [], "spec.externalIPs", place) where address.family == family {
            add(address, number, outside, "external address")
        }
        if spec.type == "LoadBalancer" {
            let restriction = sources(spec.loadBalancerSourceRanges, place, family)
            let ingress = (status?.loadBalancer?.ingress ?? []).filter { $0.ipMode != "Proxy" }.compactMap(\.ip)
            for address in usable(ingress, "status.loadBalancer.ingress", place) where address.family == family {
                add(address, number, outside + restriction, "load balancer's address")
            }
        }
        if spec.type == "NodePort" || spec.type == "LoadBalancer", let nodePort = port.nodePort, nodePort != 0 {
            guard let nodePort = UInt16(exactly: nodePort) else {
                problems.append("\(place).nodePort: \(nodePort) is not in 1…65535")
                return added
            }
            for address in viewpoint.nodePortAddresses where address.family == family {
                add(address, nodePort, outside, "node port")
            }
        }
        return added
    }

    private mutating func method(_ annotations: [String: String]) -> Balancer.Method {
        switch annotations[Self.balanceAnnotation] {
        case nil, "random": return .random
        case "source-hash": return .source
        case "consistent": return .flow
        case let other?:
            report(
                "metadata.annotations[\(Self.balanceAnnotation)]: \"\(other)\" is none of random, source-hash, consistent"
            )
            return .random
        }
    }

    private mutating func affinity(_ spec: Service.Spec) -> Int? {
        switch spec.sessionAffinity {
        case nil, "", "None": return nil
        case "ClientIP":
            let seconds = spec.sessionAffinityConfig?.clientIP?.timeoutSeconds ?? Self.defaultAffinity
            if (1...86_400).contains(seconds) { return seconds }
            report("spec.sessionAffinityConfig.clientIP.timeoutSeconds: \(seconds) is not in 1…86400")
            return Self.defaultAffinity
        case let other?:
            report("spec.sessionAffinity: \"\(other)\" is neither ClientIP nor None")
            return nil
        }
    }

    /// A list that names no block of the family admits nobody of it, as kube-proxy has it.
    private mutating func sources(_ ranges: [String]?, _ place: String, _ family: IPFamily) -> [Fact] {
        guard let ranges, !ranges.isEmpty else { return [] }
        var blocks: Set<CIDR> = []
        for (index, text) in ranges.enumerated() {
            let text = text.trimmingSpaces
            do {
                blocks.insert(try CIDR.parse(text))
            } catch .hostBitsSet(_, let meant) {
                blocks.insert(meant)
            } catch {
                report("spec.loadBalancerSourceRanges[\(index)]: \(error)")
            }
        }
        // Intervals must not overlap.
        let disjoint = blocks.filter { block in !blocks.contains { $0 != block && $0.contains(block) } }
        if disjoint.contains(where: { $0.family == family && $0.prefixLength == 0 }) { return [] }
        return [.member(.restricted)] + disjoint.filter { $0.family == family }.map(Fact.source)
    }

    private mutating func usable(_ texts: [String], _ field: String, _ place: String = "") -> [IPAddress] {
        texts.enumerated().compactMap { index, text in
            guard let address = IPAddress(text) else {
                report("\(field)[\(index)]: \"\(text)\" is not an IP address")
                return nil
            }
            if let reason = CIDR(host: address).reservedFor {
                report("\(field)[\(index)]: \(address) is one of \(reason)")
                return nil
            }
            return address
        }
    }

    private mutating func report(_ problem: String) {
        if !problems.contains(problem) { problems.append(problem) }
    }
}

/// The facts of a frontend for each policy, made once for all frontends of a port.
private struct Facts {
    private let choice: EndpointChoice
    private let method: Balancer.Method
    private let common: [Fact]
    private lazy var everywhere = view(.cluster, choice.everywhere)
    private lazy var here = view(.cluster, choice.here)
    private lazy var hereForOutside = view(.external, choice.here)

    init(_ choice: EndpointChoice, method: Balancer.Method, affinity: Int?) {
        self.choice = choice
        self.method = method
        common = [.member(.services)] + (affinity.map { [.member(.affine($0))] } ?? [])
    }

    mutating func inside(isLocal: Bool) -> [Fact] {
        if choice.isEmpty { return [.member(.services), .member(.reject)] }
        return common + (isLocal ? here : everywhere)
    }

    mutating func outside(isLocal: Bool) -> [Fact] {
        if choice.isEmpty { return [.member(.services), .member(.reject)] }
        guard isLocal else { return common + everywhere }
        return common + [.member(.external)] + everywhere + hereForOutside
    }

    private func view(_ view: View, _ backends: Set<Backend>) -> [Fact] {
        if backends.isEmpty { return [.member(.drop(view))] }
        let table = Slots.table(backends, method)
        return [.member(.balancer(view, table.balancer))] + table.slots.map { .slot(view, $0.key, $0.value) }
    }
}

extension String {
    fileprivate var trimmingSpaces: String {
        String(drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
    }
}
