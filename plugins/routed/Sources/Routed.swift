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

    public func entries(peer: Node, local: LocalNode) throws -> [NetworkEntry] {
        try peer.podCIDRs.filter { local.podCIDR($0.family) != nil }.map { range in
            guard let uplink = local.uplinks[range.family] else {
                throw UnreachablePeer(
                    "this node has no \(range.family) uplink; set node.uplink or give its Node an \(range.family) InternalIP that it has"
                )
            }
            guard let gateway = peer.internalIP(range.family) else {
                throw UnreachablePeer("the Node has no \(range.family) InternalIP; add it to status.addresses")
            }
            guard uplink.subnet.contains(gateway) else {
                throw UnreachablePeer(
                    "its address \(gateway) is not on this node's subnet \(uplink.subnet); use the overlay plugin between subnets"
                )
            }
            return .route(NetworkRoute(to: range, via: gateway, link: uplink.link))
        }
    }
}
