import HashTreeCollections
import KnetCore

/// Which Service has which addresses. An address is kept as long as it fits what the Service asks for; the Services' own statuses are the
/// truth about what was given before.
struct Allocator {
    enum Outcome: Hashable {
        case given([IPAddress], pools: [String])
        case refused(Refusal)

        var addresses: [IPAddress] {
            guard case .given(let addresses, _) = self else { return [] }
            return addresses
        }
    }

    private let ownClass: String
    private(set) var pools: [AddressPool]
    private var requests: [ObjectKey: AddressRequest] = [:]
    private var holders: [IPAddress: [ObjectKey: AddressRequest.Sharing?]] = [:]
    /// Addresses at which a key of sharing is in use.
    private var shared: [String: Set<IPAddress>] = [:]
    /// Nodes' own addresses: nobody else may have them.
    private var nodes: [ObjectKey: Set<IPAddress>] = [:]
    private var own: Set<IPAddress> = []
    /// Of the Services that ask for addresses.
    private(set) var outcomes: [ObjectKey: Outcome] = [:]

    init(_ settings: LoadBalancer.Settings) {
        ownClass = settings.loadBalancerClass
        pools = settings.pools.map(AddressPool.init).enumerated().sorted {
            $0.element.rank == $1.element.rank ? $0.offset < $1.offset : $0.element.rank < $1.element.rank
        }.map(\.element)
    }

    /// Follows what changed. Work is in proportion to the change, and to those that wait for an address where one was released.
    /// - Parameter told: Services as the server has them, which is later than `state`; their addresses are theirs.
    /// - Returns: Services whose outcome changed, or which ask for nothing.
    mutating func follow(
        _ keys: Set<ObjectKey>, in state: ClusterState, told: [ObjectKey: Service] = [:]
    ) -> Set<ObjectKey> {
        let taken = follow(nodes: keys.filter { $0.kind == .node }, in: state)
        let namespaces = Set(keys.filter { $0.kind == .namespace }.map(\.name))
        var services = keys.filter { $0.kind == .service }
        // A node that comes has its address, whoever had it.
        services.formUnion((taken ?? []).flatMap { holders[$0].map { Array($0.keys) } ?? [] })
        if !namespaces.isEmpty { services.formUnion(requests.keys.filter { namespaces.contains($0.namespace) }) }

        var before: [ObjectKey: Outcome] = [:]
        var opens = taken != nil
        var wanting: Set<ObjectKey> = []
        for key in services.sorted() {
            let service = told[key] ?? state.services[key]
            let (old, new) = (requests[key], service.flatMap { AddressRequest($0, class: ownClass) })
            before[key] = outcomes[key]
            let held = outcomes[key]?.addresses ?? service?.balancedAddresses ?? []
            release(key)
            (requests[key], outcomes[key]) = (new, nil)
            let kept = new.map { keep(held, $0, in: state) } ?? []
            // Others may find room where this one was, or beside it.
            opens = opens || kept.count < held.count || old?.sharing != new?.sharing
            guard let new else { continue }
            if kept.count < new.families.count { wanting.insert(key) }
            if !kept.isEmpty { give(kept, to: new) }
        }
        if opens {
            for (key, outcome) in outcomes where outcome.addresses.count < requests[key]?.families.count ?? 0 {
                wanting.insert(key)
            }
        }
        for key in wanting.sorted() {
            guard let request = requests[key] else { continue }
            let held = outcomes[key]?.addresses ?? []
            if !services.contains(key) { before[key] = outcomes[key] }
            do throws(Refusal) {
                let found = try addresses(for: request, held: held, in: state)
                if found != held { give(found, to: request) }
            } catch {
                guard held.count < request.required else { continue }
                release(key)
                outcomes[key] = .refused(error)
            }
        }
        return services.union(wanting).filter { outcomes[$0] != before[$0] || outcomes[$0] == nil }
    }

    /// - Returns: addresses that nodes have now and had not before; `nil` where nothing changed.
    private mutating func follow(nodes keys: Set<ObjectKey>, in state: ClusterState) -> Set<IPAddress>? {
        guard !keys.isEmpty else { return nil }
        for key in keys { nodes[key] = Set(IPFamily.allCases.compactMap { state.nodes[key]?.internalIP($0) }) }
        let (old, now) = (own, nodes.values.reduce(into: Set<IPAddress>()) { $0.formUnion($1) })
        own = now
        for address in old.subtracting(now) {
            for index in pools.indices { pools[index].released(address) }
        }
        return old == now ? nil : now.subtracting(old)
    }

    /// Those of the addresses that the Service may go on with.
    private func keep(_ held: [IPAddress], _ request: AddressRequest, in state: ClusterState) -> [IPAddress] {
        guard request.fault == nil else { return [] }
        return held.filter { address in
            let pool = pools.first { $0.contains(address) }
            let isAsked = request.addresses.isEmpty || request.addresses.contains(address)
            let isOfPool = request.pool == nil || request.pool == pool?.name
            return isAsked && isOfPool && request.families.contains(address.family)
                && pool?.admits(request, namespaceLabels: labels(of: request, in: state)) == true
                && isOpen(address, to: request) && !own.contains(address)
        }
    }

    // MARK: Choosing

    private func labels(of request: AddressRequest, in state: ClusterState) -> [String: String] {
        var labels = state.namespaces[ObjectKey(.namespace, name: request.key.namespace)]?.metadata.labels ?? [:]
        labels["kubernetes.io/metadata.name"] = request.key.namespace
        return labels
    }

    /// Whether the Service may be there beside those that are.
    private func isOpen(_ address: IPAddress, to request: AddressRequest) -> Bool {
        (holders[address] ?? [:]).allSatisfy { key, sharing in
            guard key != request.key else { return true }
            guard let sharing, let own = request.sharing else { return false }
            return own.admits(sharing)
        }
    }

    private mutating func addresses(
        for request: AddressRequest, held: [IPAddress], in state: ClusterState
    ) throws(Refusal) -> [IPAddress] {
        if let fault = request.fault { throw fault }
        let namespaceLabels = labels(of: request, in: state)
        var eligible = pools.indices.filter { pools[$0].admits(request, namespaceLabels: namespaceLabels) }
        if let name = request.pool {
            guard let index = pools.firstIndex(where: { $0.name == name }) else {
                throw Refusal(.unknownPool, "there is no pool \"\(name)\"; \(poolNames)")
            }
            guard eligible.contains(index) else {
                throw Refusal(.notAdmitted, "the pool \"\(name)\" is not for this Service, by its selectors")
            }
            eligible = [index]
        }
        if !request.addresses.isEmpty { return try asked(request, eligible) }
        if request.pool == nil { eligible.removeAll { !pools[$0].settings.autoAssign } }
        guard !eligible.isEmpty else {
            throw Refusal(.noPool, "no pool is for this Service; \(poolNames)")
        }
        // One pool for both families, where one has both.
        for index in eligible where held.isEmpty {
            let found = request.families.compactMap { free($0, request, index) }
            if found.count == request.families.count { return found }
        }
        var found: [IPAddress] = []
        for family in request.families {
            var address = held.first { $0.family == family }
            for index in eligible where address == nil { address = free(family, request, index) }
            if let address { found.append(address) }
        }
        if found.count >= max(request.required, 1) { return found }
        let lacking = request.families.filter { family in !found.contains { $0.family == family } }
        throw Refusal(
            .exhausted,
            "no free \(lacking.map(\.description).joined(separator: " or ")) address in "
                + eligible.map { "\"\(pools[$0].name)\"" }.joined(separator: ", "))
    }

    private var poolNames: String {
        pools.isEmpty ? "none is configured" : "there are \(pools.map { "\"\($0.name)\"" }.joined(separator: ", "))"
    }

    private func asked(_ request: AddressRequest, _ eligible: [Int]) throws(Refusal) -> [IPAddress] {
        for address in request.addresses {
            guard eligible.contains(where: { pools[$0].contains(address) }) else {
                let pool = pools.first { $0.contains(address) }
                throw pool.map {
                    Refusal(.notAdmitted, "\(address) is of the pool \"\($0.name)\", which is not for this Service")
                } ?? Refusal(.noPool, "\(address) is in no pool; \(poolNames)")
            }
            guard !own.contains(address) else { throw Refusal(.addressTaken, "\(address) is a node's own") }
            guard isOpen(address, to: request) else {
                let others = (holders[address] ?? [:]).keys.filter { $0 != request.key }.sorted()
                let names = others.map { "\($0.namespace)/\($0.name)" }.joined(separator: ", ")
                throw Refusal(
                    .addressTaken,
                    "\(address) is \(names)'s; two Services share an address with the same annotation "
                        + "metallb.io/allow-shared-ip, different ports, and the same externalTrafficPolicy")
            }
        }
        return request.families.compactMap { family in request.addresses.first { $0.family == family } }
    }

    private mutating func free(_ family: IPFamily, _ request: AddressRequest, _ index: Int) -> IPAddress? {
        if let key = request.sharing?.key {
            let common = (shared[key] ?? []).filter {
                $0.family == family && pools[index].contains($0) && isOpen($0, to: request)
            }
            if let address = common.min() { return address }
        }
        let (holders, own) = (holders, own)
        return pools[index].free(family) { holders[$0] != nil || own.contains($0) }
    }

    // MARK: Holding

    private mutating func give(_ addresses: [IPAddress], to request: AddressRequest) {
        release(request.key)
        for address in addresses {
            holders[address, default: [:]].updateValue(request.sharing, forKey: request.key)
            if let key = request.sharing?.key { shared[key, default: []].insert(address) }
        }
        outcomes[request.key] = .given(
            addresses, pools: addresses.compactMap { address in pools.first { $0.contains(address) }?.name })
    }

    private mutating func release(_ key: ObjectKey) {
        for address in outcomes[key]?.addresses ?? [] {
            let sharing = holders[address]?.removeValue(forKey: key) ?? nil
            if let sharing, !(holders[address] ?? [:]).values.contains(where: { $0?.key == sharing.key }) {
                shared[sharing.key]?.remove(address)
                if shared[sharing.key]?.isEmpty == true { shared[sharing.key] = nil }
            }
            guard holders[address]?.isEmpty == true else { continue }
            holders[address] = nil
            for index in pools.indices { pools[index].released(address) }
        }
    }

    // MARK: Figures

    /// Addresses of the pool that are given.
    func used(of pool: AddressPool, _ family: IPFamily) -> Int {
        holders.keys.count { $0.family == family && pool.contains($0) }
    }
}
