/// What this node knows of itself: its name and ranges, and its uplinks as the kernel has them.
public struct LocalNode: Hashable, Sendable {
    /// The interface through which the other nodes are reached in one family.
    public struct Uplink: Hashable, Sendable {
        public let link: String
        /// This node's own address there.
        public let address: IPAddress
        /// The addresses that are on the link.
        public let subnet: CIDR
        /// Bytes.
        public let mtu: Int
        /// Whether the kernel has it now; one that is gone is kept until there is another.
        public var isPresent = true

        public init(link: String, address: IPAddress, subnet: CIDR, mtu: Int) {
            self.link = link
            self.address = address
            self.subnet = subnet
            self.mtu = mtu
        }
    }

    public let name: String
    /// This node's ranges, at most one of each family in use.
    public let podCIDRs: [CIDR]
    public let uplinks: [IPFamily: Uplink]
    /// All lasting addresses of this node that others can use, sorted.
    public var addresses: [IPAddress] = []
    /// Devices of ours whose packets arrive with wrong checksums where the hardware is to compute them.
    public var faultyOffloads: Set<String> = []

    public init(name: String, podCIDRs: [CIDR], uplinks: [IPFamily: Uplink]) {
        self.name = name
        self.podCIDRs = podCIDRs
        self.uplinks = uplinks
    }

    public func podCIDR(_ family: IPFamily) -> CIDR? { podCIDRs.first { $0.family == family } }
}
