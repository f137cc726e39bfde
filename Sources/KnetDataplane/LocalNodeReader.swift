import HashTreeCollections
public import KnetCore
public import KnetLinux

/// Finds out what this node is: its ranges from its Node object or the configuration, its uplinks from the kernel.
public struct LocalNodeReader: Sendable {
    private let name: String
    private let settings: Configuration.Node
    private let clusterRanges: [CIDR]

    /// Prefix lengths of a node's part of the cluster's ranges, as kube-controller-manager has them
    /// (`--node-cidr-mask-size-ipv4`, `-ipv6`).
    private static let nodePrefixLength: [IPFamily: Int] = [.v4: 24, .v6: 64]

    public init(name: String, configuration: Configuration) {
        self.name = name
        settings = configuration.node
        clusterRanges = configuration.network.podCIDRs
    }

    /// What of the kernel counts here.
    public struct Kernel: Sendable {
        public let links: [Link]
        public let addresses: [LinkAddress]
        /// Routes of both families to everywhere.
        public let defaultRoutes: [Route]

        public init(links: [Link], addresses: [LinkAddress], defaultRoutes: [Route]) {
            self.links = links
            self.addresses = addresses
            self.defaultRoutes = defaultRoutes
        }

        /// Reads the kernel of the namespace of `pool`.
        public init(pool: NetlinkPool) throws {
            self = try pool.with { socket in
                Kernel(
                    links: try socket.links(), addresses: try socket.addresses(),
                    defaultRoutes: try IPFamily.allCases.flatMap { try socket.routes($0) }
                        .filter { $0.destination.prefixLength == 0 })
            }
        }
    }

    /// This node, or `nil` while its ranges are not known.
    public func local(state: ClusterState, kernel: Kernel) -> LocalNode? {
        guard let ranges = ranges(state) else { return nil }
        let node = state.nodes[.node(name)]
        let uplinks = IPFamily.allCases.compactMap { family in
            uplink(family, node: node, kernel: kernel).map { (family, $0) }
        }
        return LocalNode(name: name, podCIDRs: ranges, uplinks: Dictionary(uniqueKeysWithValues: uplinks))
    }

    /// The configuration's ranges, else the Node object's, else, in a cluster without Node objects, the first part of each
    /// of the cluster's.
    private func ranges(_ state: ClusterState) -> [CIDR]? {
        if let configured = settings.podCIDRs { return Self.firstOfEachFamily(configured) }
        if let node = state.nodes[.node(name)] {
            return node.podCIDRs.isEmpty ? nil : Self.firstOfEachFamily(node.podCIDRs)
        }
        guard state.isComplete, state.nodes.isEmpty else { return nil }
        return Self.firstOfEachFamily(
            clusterRanges.map { range in
                let length = max(range.prefixLength, Self.nodePrefixLength[range.family] ?? range.prefixLength)
                return CIDR(containing: range.base, prefixLength: length)
            })
    }

    private static func firstOfEachFamily(_ ranges: [CIDR]) -> [CIDR] {
        IPFamily.allCases.compactMap { family in ranges.first { $0.family == family } }
    }

    private func uplink(_ family: IPFamily, node: Node?, kernel: Kernel) -> LocalNode.Uplink? {
        let candidates = kernel.addresses.filter {
            $0.address.family == family && $0.isUsable && !$0.address.isLoopback && $0.scope == 0
        }
        let chosen: LinkAddress? =
            if settings.uplink != "auto" {
                candidates.first { candidate in
                    kernel.links.contains { $0.index == candidate.index && $0.name == settings.uplink }
                }
            } else if let address = node?.internalIP(family) {
                candidates.first { $0.address == address }
            } else {
                kernel.defaultRoutes.filter { $0.destination.family == family }.min { $0.metric < $1.metric }
                    .flatMap { route in candidates.first { $0.index == route.index } }
            }
        guard let chosen, let link = kernel.links.first(where: { $0.index == chosen.index }) else { return nil }
        return LocalNode.Uplink(link: link.name, address: chosen.address, subnet: chosen.subnet, mtu: link.mtu)
    }
}
