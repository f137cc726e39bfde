import HashTreeCollections
public import KnetCore

/// How pod traffic gets from node to node. A dataplane says what it wants in the kernel, purely; pod links, forwarding
/// and masquerade are the same for all of them and live in `DataplanePlugin`.
public protocol Dataplane: Sendable {
    /// The key under `plugins` in the configuration.
    var name: String { get }

    /// What this node needs whoever its peers are.
    func entries(local: LocalNode) -> [NetworkEntry]

    /// The way to the pods of one other node.
    /// - Throws: `UnreachablePeer` where there is none, `PartlyDesired` where one family has none.
    func entries(peer: Node, local: LocalNode) throws -> [NetworkEntry]

    /// Bytes of the largest packet that a pod can send to another node's pod unfragmented.
    func mtu(_ family: IPFamily, local: LocalNode) -> Int

    /// What other nodes must know of this one: annotations of its Node, `nil` for one that is not to be there.
    func nodeAnnotations(local: LocalNode) -> [String: String?]

    /// Whether it is to be found out if checksum offload works on its devices.
    var triesChecksumOffload: Bool { get }

    /// What tells that.
    func checksumTrials(local: LocalNode, peers: [Node]) -> [ChecksumTrial]
}

extension Dataplane {
    public func nodeAnnotations(local: LocalNode) -> [String: String?] { [:] }
    public var triesChecksumOffload: Bool { false }
    public func checksumTrials(local: LocalNode, peers: [Node]) -> [ChecksumTrial] { [] }
}

/// One way to try a device: an address of a peer, of IPv4, that packets reach through it.
public struct ChecksumTrial: Hashable, Sendable {
    public let device: String
    public let target: IPAddress

    public init(device: String, target: IPAddress) {
        self.device = device
        self.target = target
    }
}

/// A node to whose pods no way leads, and what would make one.
public struct UnreachablePeer: Error, CustomStringConvertible {
    public let reason: String
    public init(_ reason: String) { self.reason = reason }
    public var description: String { reason }
}

/// A dataplane with what every dataplane needs: the plugin that the reconciler runs.
public struct DataplanePlugin: Plugin {
    public let dataplane: any Dataplane
    private let network: Configuration.Network
    private let kernel: NetworkKernel
    private let conflicts = RangeConflicts()

    public init(_ dataplane: any Dataplane, network: Configuration.Network, kernel: NetworkKernel) {
        self.dataplane = dataplane
        self.network = network
        self.kernel = kernel
    }

    public var name: String { dataplane.name }

    /// Every dataplane's.
    public static let needs = ClusterNeeds([.node])
    public var needs: ClusterNeeds { Self.needs }

    /// Every peer's entries depend on this node's own addresses and devices, and on who else claims the peer's ranges.
    public func affected(by keys: Set<ObjectKey>, in state: ClusterState) -> Set<ObjectKey> {
        if keys.contains(.local) { return keys.union(state.nodes.keys) }
        guard keys.contains(where: { $0.kind == .node }) else { return keys }
        let before = conflicts.lastLosers
        let now = conflicts.losers(in: state)
        return keys.union(before.keys.filter { now[$0] != before[$0] }).union(now.keys.filter { now[$0] != before[$0] })
    }

    public func entries(for key: ObjectKey, in state: ClusterState) throws -> [NetworkEntry] {
        switch key.kind {
        case .local:
            return state.local.map { forwarding($0) + dataplane.entries(local: $0) } ?? []
        case .attachment:
            return state.attachments[key].map(Self.entries) ?? []
        case .node:
            guard let local = state.local, let node = state.nodes[key], node.metadata.name != local.name else {
                return []
            }
            try check(node, local: local)
            if let loser = conflicts.losers(in: state)[key] {
                throw UnreachablePeer("its range \(loser.range) conflicts with \(loser.winner), which stays in force")
            }
            return try dataplane.entries(peer: node, local: local)
        default: return []
        }
    }

    public func read() throws -> [NetworkEntry] { try kernel.read() }

    public func apply(_ changes: KernelChanges<NetworkEntry>) -> KernelOutcome<NetworkEntry> { kernel.apply(changes) }

    /// Bytes of the largest packet of a pod, by family of its addresses.
    public func podMTU(_ family: IPFamily, local: LocalNode) -> Int {
        if case .fixed(let bytes) = network.mtu { return bytes }
        return dataplane.mtu(family, local: local)
    }

    private func forwarding(_ local: LocalNode) -> [NetworkEntry] {
        let families = Set(local.podCIDRs.map(\.family))
        let sysctls = families.sorted().compactMap { family in
            Forwarding.sysctls[family].map { NetworkEntry.sysctl(name: $0, value: "1") }
        }
        // An address of ours that no pod has must not leave by the default route.
        let unreachable = local.podCIDRs.map { NetworkEntry.route(NetworkRoute(to: $0, link: nil)) }
        let masquerade = MasqueradeTable.table(sources: local.podCIDRs, network: network)
        let tables = [masquerade, HostPortTable.table(ranges: local.podCIDRs)].compactMap { $0 }
        return sysctls + unreachable + tables.map(NetworkEntry.table)
    }

    private static func entries(_ attachment: Attachment) -> [NetworkEntry] {
        let ports = HostPortTable.elements(attachment).map(NetworkEntry.element)
        // What an earlier plugin of the chain made is that plugin's.
        if attachment.options.chained != nil { return ports }
        let link = PodLinkState(
            name: attachment.hostLink, routesLoopback: HostPortTable.usesLoopback(attachment))
        let ways = attachment.addresses.flatMap { address -> [NetworkEntry] in
            [
                .neighbour(link: attachment.hostLink, address: address, mac: attachment.podMAC),
                .route(NetworkRoute(to: CIDR(host: address), link: attachment.hostLink)),
            ]
        }
        return [.podLink(link)] + ways + ports
    }

    private func check(_ node: Node, local: LocalNode) throws {
        guard !node.podCIDRs.isEmpty else {
            throw UnreachablePeer("the Node has no spec.podCIDRs")
        }
        for cidr in node.podCIDRs where !network.podCIDRs.contains(where: { $0.contains(cidr) }) {
            throw UnreachablePeer("spec.podCIDRs has \(cidr), which is no part of network.podCIDRs")
        }
        for family in IPFamily.allCases {
            if let address = node.internalIP(family), address == local.uplinks[family]?.address {
                throw UnreachablePeer("its InternalIP \(address) is this node's own")
            }
        }
        for own in local.podCIDRs {
            if let cidr = node.podCIDRs.first(where: own.overlaps) {
                throw UnreachablePeer("spec.podCIDRs has \(cidr), which overlaps this node's own \(own)")
            }
        }
    }
}
