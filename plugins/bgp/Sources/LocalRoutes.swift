import HashTreeCollections
import KnetCore

/// The prefixes that this node tells its peers of, from the state of the cluster. Work is in proportion to the change.
struct LocalRoutes {
    private let settings: BGP.Settings.Advertise
    private var ofService: [ObjectKey: Set<CIDR>] = [:]
    private var counts: [CIDR: Int] = [:]
    private var ranges: Set<CIDR> = []

    init(_ settings: BGP.Settings.Advertise) { self.settings = settings }

    var prefixes: Set<CIDR> { ranges.union(counts.keys) }

    /// - Returns: whether anything changed.
    mutating func follow(_ keys: Set<ObjectKey>, in state: ClusterState) -> Bool {
        var isChanged = false
        if keys.contains(.local) {
            let new = Set(settings.ranges + (settings.podRanges ? state.local?.podCIDRs ?? [] : []))
            isChanged = new != ranges
            ranges = new
        }
        let own = state.local?.name
        let services = keys.contains(.local) ? Set(state.services.keys).union(keys) : keys
        for key in services where key.kind == .service {
            let new = own.flatMap { own in state.services[key].map { prefixes(of: $0, in: state, own: own) } } ?? []
            let old = ofService.updateValue(new, forKey: key) ?? []
            if new.isEmpty { ofService[key] = nil }
            guard new != old else { continue }
            isChanged = true
            for prefix in old.subtracting(new) {
                let left = (counts[prefix] ?? 1) - 1
                counts[prefix] = left == 0 ? nil : left
            }
            for prefix in new.subtracting(old) { counts[prefix, default: 0] += 1 }
        }
        return isChanged
    }

    private func prefixes(of service: Service, in state: ClusterState, own: String) -> Set<CIDR> {
        guard let spec = service.spec else { return [] }
        var found: Set<CIDR> = []
        let usable = state.usableEndpoints(of: service.key)
        func isServed(_ policy: String?) -> Bool {
            policy == "Local" ? usable.contains { $0.nodeName == own } : !usable.isEmpty
        }
        if isServed(spec.externalTrafficPolicy) {
            if settings.loadBalancers { found.formUnion(service.balancedAddresses.map(aggregated)) }
            if settings.externalIPs {
                found.formUnion((spec.externalIPs ?? []).compactMap { IPAddress($0) }.map(aggregated))
            }
        }
        if settings.clusterIPs, isServed(spec.internalTrafficPolicy) {
            found.formUnion((spec.clusterIPs ?? []).compactMap { IPAddress($0) }.map(aggregated))
        }
        return found
    }

    private func aggregated(_ address: IPAddress) -> CIDR {
        CIDR(
            containing: address,
            prefixLength: address.family == .v4 ? settings.aggregate.ipv4 : settings.aggregate.ipv6)
    }
}
