public import KnetCore
public import KnetDataplane

/// Pod traffic between nodes by plain routes: no encapsulation, full MTU, for nodes on one subnet.
public struct Routed: Dataplane {
    public static let settings = PluginSettings(name: "routed", isDataplane: true, fields: [])

    public let name = Self.settings.name

    public init() {}

    public func mtu(_ family: IPFamily, local: LocalNode) -> Int {
        (local.uplinks[family] ?? local.uplinks.values.first)?.mtu ?? 1500
    }

    public func entries(local: LocalNode) -> [NetworkEntry] { [] }

    public func nodeAnnotations(local: LocalNode) -> [String: String?] {
        let families = Set(local.podCIDRs.map(\.family))
        let ways = local.uplinks.filter { families.contains($0.key) }.mapValues { ($0.address, "null") }
        return FlannelBackend.annotations(type: "host-gw", ways: ways)
    }

    public func entries(peer: Node, local: LocalNode) throws -> [NetworkEntry] {
        var entries: [NetworkEntry] = []
        var obstacles: [String] = []
        for range in peer.podCIDRs where local.podCIDR(range.family) != nil {
            do {
                entries.append(.route(try route(to: range, of: peer, local: local)))
            } catch {
                obstacles.append(error.reason)
            }
        }
        guard obstacles.isEmpty else {
            throw PartlyDesired(entries, reason: obstacles.joined(separator: "; "))
        }
        return entries
    }

    private func route(to range: CIDR, of peer: Node, local: LocalNode) throws(UnreachablePeer) -> NetworkRoute {
        let family = range.family
        guard let uplink = local.uplinks[family] else {
            throw UnreachablePeer(
                "this node has no \(family) uplink; set node.uplink or give its Node an \(family) InternalIP that it has"
            )
        }
        guard let gateway = peer.internalIP(family) else {
            throw UnreachablePeer("the Node has no \(family) InternalIP; add it to status.addresses")
        }
        guard uplink.subnet.contains(gateway) else {
            throw UnreachablePeer(
                "its address \(gateway) is not on this node's subnet \(uplink.subnet); use the overlay plugin between subnets"
            )
        }
        return NetworkRoute(to: range, via: gateway, link: uplink.link)
    }
}
