public struct Node: ClusterObject {
    public static let kind = ObjectKey.Kind.node

    public struct Spec: Hashable, Sendable, Decodable {
        public var podCIDR: String?
        public var podCIDRs: [String]?

        public init(podCIDR: String?, podCIDRs: [String]?) {
            self.podCIDR = podCIDR
            self.podCIDRs = podCIDRs
        }
    }
    public struct Status: Hashable, Sendable, Decodable {
        public struct Address: Hashable, Sendable, Decodable {
            public var type: String
            public var address: String

            public init(type: String, address: String) {
                self.type = type
                self.address = address
            }
        }
        public var addresses: [Address]?
        public var conditions: [Condition]?

        public init(addresses: [Address]?, conditions: [Condition]? = nil) {
            self.addresses = addresses
            self.conditions = conditions
        }
    }

    public var metadata: Metadata
    public var spec: Spec?
    public var status: Status?

    public init(metadata: Metadata, spec: Spec? = nil, status: Status? = nil) {
        self.metadata = metadata
        self.spec = spec
        self.status = status
    }

    public init(name: String, podCIDRs: [CIDR], addresses: [IPAddress], annotations: [String: String]? = nil) {
        metadata = Metadata(name: name, annotations: annotations)
        spec = Spec(podCIDR: podCIDRs.first?.description, podCIDRs: podCIDRs.map(\.description))
        status = Status(addresses: addresses.map { .init(type: "InternalIP", address: $0.description) })
    }

    /// `spec.podCIDRs`, or the older `spec.podCIDR` where that is all there is.
    public var podCIDRs: [CIDR] { podCIDRTexts.compactMap { CIDR($0) } }

    /// The first InternalIP of the family.
    public func internalIP(_ family: IPFamily) -> IPAddress? {
        (status?.addresses ?? []).lazy.filter { $0.type == "InternalIP" }.compactMap { IPAddress($0.address) }
            .first { $0.family == family }
    }

    public var defect: String? {
        for (index, text) in podCIDRTexts.enumerated() {
            do { _ = try CIDR.parse(text) } catch { return "spec.podCIDRs[\(index)]: \(error)" }
        }
        for (index, entry) in (status?.addresses ?? []).enumerated()
        where entry.type == "InternalIP" && IPAddress(entry.address) == nil {
            return "status.addresses[\(index)]: \"\(entry.address)\" is not an IP address"
        }
        for family in IPFamily.allCases {
            if let address = internalIP(family), let reason = CIDR(host: address).reservedFor {
                return "status.addresses: InternalIP \(address) is one of \(reason)"
            }
        }
        return nil
    }

    private var podCIDRTexts: [String] { spec?.podCIDRs ?? spec?.podCIDR.map { [$0] } ?? [] }
}

public struct Namespace: ClusterObject {
    public static let kind = ObjectKey.Kind.namespace
    public var metadata: Metadata

    public init(metadata: Metadata) { self.metadata = metadata }
}
