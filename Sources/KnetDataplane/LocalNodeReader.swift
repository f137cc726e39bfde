import HashTreeCollections
public import KnetCore
public import KnetLinux

/// Finds out what this node is: its ranges from its Node object or the configuration, its uplinks from the kernel.
public struct LocalNodeReader: Sendable {
    private let name: String
    private let settings: Configuration.Node
    private let network: Configuration.Network
    /// Whether Nodes are made by kubelets, and their ranges given by kube-controller-manager.
    private let isKubernetes: Bool

    /// Prefix lengths of a node's part of the cluster's ranges, as kube-controller-manager has them
    /// (`--node-cidr-mask-size-ipv4`, `-ipv6`).
    private static let nodePrefixLength: [IPFamily: Int] = [.v4: 24, .v6: 64]

    public init(name: String, configuration: Configuration) {
        self.name = name
        settings = configuration.node
        network = configuration.network
        isKubernetes = configuration.cluster.kubernetes != nil
    }

    /// What of the kernel counts here.
    public struct Kernel: Sendable {
        public let links: [Link]
        public let addresses: [LinkAddress]
        /// Routes of both families to everywhere.
        public let defaultRoutes: [Route]

        public init(links: [Link], addresses: [LinkAddress], defaultRoutes: [Route]) {
            self.links = links
            // What knetd itself answers at is no address of the node.
            let served = Set(links.filter { $0.name == DomainServiceLink.name }.map(\.index))
            self.addresses = addresses.filter { !served.contains($0.index) }
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

    /// Why this node cannot be told.
    public struct Unknown: Error, CustomStringConvertible {
        public let description: String
    }

    /// - Throws: `Unknown` while this node's ranges are not known or not usable.
    public func local(state: ClusterState, kernel: Kernel) throws(Unknown) -> LocalNode {
        let ranges = try ranges(state)
        for range in ranges {
            if let fault = network.fault(ofNodeRange: range, among: ranges) {
                throw Unknown(description: "this node's range \(range) is \(fault.found); allowed is \(fault.allowed)")
            }
        }
        let node = state.nodes[.node(name)]
        let uplinks = IPFamily.allCases.compactMap { family in
            uplink(family, node: node, kernel: kernel).map { (family, $0) }
        }
        var local = LocalNode(
            name: name, podCIDRs: ranges,
            uplinks: uplinks.isEmpty ? lastUplinks(state) : Dictionary(uniqueKeysWithValues: uplinks))
        let lasting = kernel.addresses.filter { $0.isLasting && $0.scope == 0 && !$0.address.isLoopback }.map(\.address)
        local.addresses = Set(lasting).filter { address in !ranges.contains { $0.contains(address) } }.sorted()
        return local
    }

    /// While an address is being changed or a cable is out, a node has no uplink for a moment. What rests on the last one
    /// stays, so that all is there when it comes back.
    private func lastUplinks(_ state: ClusterState) -> [IPFamily: LocalNode.Uplink] {
        (state.local?.uplinks ?? [:]).mapValues { uplink in
            var uplink = uplink
            uplink.isPresent = false
            return uplink
        }
    }

    /// The configuration's ranges, else the Node object's, else, in a cluster without Node objects, the first part of each
    /// of the cluster's.
    private func ranges(_ state: ClusterState) throws(Unknown) -> [CIDR] {
        if let configured = settings.podCIDRs { return configured }
        if let node = state.nodes[.node(name)] {
            guard !node.podCIDRs.isEmpty else {
                throw Unknown(
                    description: "Node \"\(name)\" has no spec.podCIDRs; "
                        + (isKubernetes
                            ? "kube-controller-manager gives them with --allocate-node-cidrs; else set node.podCIDRs"
                            : "give it some, or set node.podCIDRs"))
            }
            return node.podCIDRs
        }
        guard state.isUsable([.node]) else {
            throw Unknown(description: "the cluster's Nodes have not been read yet")
        }
        guard !isKubernetes else {
            throw Unknown(
                description: "the API server has no Node \"\(name)\" yet; its kubelet registers it, else set node.name")
        }
        guard state.nodes.isEmpty else {
            throw Unknown(
                description:
                    "there is no Node \"\(name)\" among the cluster's \(state.nodes.count); add it, or set node.name or node.podCIDRs"
            )
        }
        if let local = state.local, local.podCIDRs != firstParts {
            throw Unknown(description: "Node \"\(name)\" and all others are gone; the range that it had stays in force")
        }
        return firstParts
    }

    private var firstParts: [CIDR] {
        network.podCIDRs.filter { range in
            network.podCIDRs.first { $0.family == range.family } == range
        }.map { range in
            let length = max(range.prefixLength, Self.nodePrefixLength[range.family] ?? range.prefixLength)
            return CIDR(containing: range.base, prefixLength: length)
        }
    }

    private func uplink(_ family: IPFamily, node: Node?, kernel: Kernel) -> LocalNode.Uplink? {
        let candidates = kernel.addresses.filter {
            $0.address.family == family && $0.isLasting && !$0.address.isLoopback && $0.scope == 0
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
