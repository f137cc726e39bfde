import KnetCore

/// Why a Service has no address. The codes are those of MetalLB's events where it has one.
struct Refusal: Error, Hashable {
    enum Reason: String {
        case badRequest = "BadRequest"
        case unknownPool = "UnknownPool"
        case notAdmitted = "NotAdmitted"
        case addressTaken = "AddressTaken"
        case exhausted = "PoolExhausted"
        case noPool = "NoPool"
    }

    let reason: Reason
    let message: String

    init(_ reason: Reason, _ message: String) {
        self.reason = reason
        self.message = message
    }
}

/// What a Service asks for, by its fields and by MetalLB's annotations (https://metallb.io/usage/).
struct AddressRequest: Hashable {
    /// Who may be at the same address: those with the same key, other ports, and endpoints that are chosen alike.
    struct Sharing: Hashable {
        struct Endpoints: Hashable {
            let namespace: String
            let selector: [String: String]
        }

        let key: String
        /// Which, where only local ones are used; `nil`: any node will do.
        let localEndpoints: Endpoints?
        let ports: Set<String>

        func admits(_ other: Sharing) -> Bool {
            key == other.key && localEndpoints == other.localEndpoints && ports.isDisjoint(with: other.ports)
        }
    }

    let key: ObjectKey
    /// One address of each is wanted.
    let families: [IPFamily]
    /// How many of them there must be.
    let required: Int
    let pool: String?
    let addresses: [IPAddress]
    let sharing: Sharing?
    let labels: [String: String]
    /// What is wrong with it.
    let fault: Refusal?

    /// - Returns: `nil` where the Service wants no address, or none of this class.
    init?(_ service: Service, class ownClass: String) {
        guard let spec = service.spec, spec.type == "LoadBalancer", (spec.loadBalancerClass ?? "") == ownClass,
            !service.metadata.isTerminating
        else { return nil }
        key = service.key
        labels = service.metadata.labels ?? [:]
        func annotation(_ name: String) -> String? {
            let annotations = service.metadata.annotations
            return annotations?["metallb.io/\(name)"] ?? annotations?["metallb.universe.tf/\(name)"]
        }
        pool = annotation("address-pool")
        let ports = (spec.ports ?? []).map { "\($0.protocol ?? "TCP")/\($0.port)" }
        let isLocal = spec.externalTrafficPolicy == "Local"
        sharing = annotation("allow-shared-ip").flatMap { key in
            // Endpoints without a selector may be anywhere: no other Service's are known to be there too.
            guard !key.isEmpty, !isLocal || spec.selector?.isEmpty == false else { return nil }
            let local =
                isLocal ? Sharing.Endpoints(namespace: service.key.namespace, selector: spec.selector ?? [:]) : nil
            return Sharing(key: key, localEndpoints: local, ports: Set(ports))
        }
        let clusterIPs = (spec.clusterIPs ?? spec.clusterIP.map { [$0] } ?? []).compactMap { IPAddress($0)?.family }
        var families = clusterIPs.isEmpty ? (spec.ipFamilies ?? []).compactMap { $0 == "IPv6" ? .v6 : .v4 } : clusterIPs
        if families.isEmpty { families = [.v4] }

        let texts = annotation("loadBalancerIPs").map { $0.split(separator: ",").map { $0.drop { $0 == " " } } } ?? []
        let named = texts.map { IPAddress($0.prefix { $0 != " " }) }
        var fault: Refusal?
        var addresses = named.compactMap(\.self)
        if named.contains(nil) {
            fault = Refusal(.badRequest, "the annotation metallb.io/loadBalancerIPs is no list of addresses")
        } else if let text = spec.loadBalancerIP {
            let address = IPAddress(text)
            if address == nil { fault = Refusal(.badRequest, "spec.loadBalancerIP \"\(text)\" is no address") }
            if !addresses.isEmpty, addresses != [address] {
                fault = Refusal(
                    .badRequest, "spec.loadBalancerIP and the annotation metallb.io/loadBalancerIPs differ; give one")
            }
            addresses = address.map { [$0] } ?? []
        }
        let asked = addresses.map(\.family)
        if fault == nil, Set(asked).count != asked.count {
            fault = Refusal(.badRequest, "two addresses of one family are asked for")
        }
        if fault == nil, let stranger = asked.first(where: { !families.contains($0) }) {
            fault = Refusal(.badRequest, "an address of \(stranger) is asked for, which the Service's ipFamilies lack")
        }
        // Who names one address of a Service of two families wants that one.
        if fault == nil, !asked.isEmpty { families = families.filter(asked.contains) }
        self.families = families
        required = spec.ipFamilyPolicy == "PreferDualStack" ? 1 : families.count
        self.addresses = addresses
        self.fault = fault
    }
}
