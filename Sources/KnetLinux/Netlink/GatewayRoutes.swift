import CMnl
public import KnetCore

/// A route by one gateway or by several that share the traffic (ECMP).
public struct GatewayRoute: Hashable, Sendable {
    public let destination: CIDR
    /// Not empty, of the destination's family.
    public let gateways: Set<IPAddress>

    /// The route protocol number of what routers have told; unassigned in the kernel's and iproute2's tables.
    public static let learntOrigin: UInt8 = 108
    /// Behind all that knetd's dataplanes and administrators set.
    public static let metric: UInt32 = 2048

    public init(destination: CIDR, gateways: Set<IPAddress>) {
        self.destination = destination
        self.gateways = gateways
    }
}

extension NetlinkMessage {
    /// Puts the route in the place of the learnt one to the same destination. The kernel finds the links of its gateways.
    public static func setGatewayRoute(_ route: GatewayRoute) -> NetlinkMessage {
        var message = gatewayRoute("route to \(route.destination)", RTM_NEWROUTE, route, NLM_F_CREATE | NLM_F_REPLACE)
        let gateways = route.gateways.sorted()
        if gateways.count == 1 {
            message.put(RTA_GATEWAY.rawValue, bytes: gateways[0].bytes)
        } else {
            // struct rtnexthop with its gateway as an attribute (linux/rtnetlink.h).
            let hops = gateways.flatMap { gateway -> [UInt8] in
                let bytes = gateway.bytes
                return Self.short(UInt16(12 + bytes.count)) + [0, 0, 0, 0, 0, 0] + Self.short(UInt16(4 + bytes.count))
                    + Self.short(UInt16(RTA_GATEWAY.rawValue)) + bytes
            }
            message.put(RTA_MULTIPATH.rawValue, bytes: hops)
        }
        return message
    }

    public static func deleteGatewayRoute(_ route: GatewayRoute) -> NetlinkMessage {
        gatewayRoute("delete route to \(route.destination)", RTM_DELROUTE, route, 0)
    }

    private static func short(_ number: UInt16) -> [UInt8] { withUnsafeBytes(of: number) { Array($0) } }

    private static func gatewayRoute(
        _ purpose: String, _ type: Int, _ route: GatewayRoute, _ flags: Int32
    ) -> NetlinkMessage {
        var message = NetlinkMessage(purpose, type: type, flags: flags)
        var fixed = rtmsg()
        fixed.rtm_family = route.destination.family.socketFamily
        fixed.rtm_dst_len = UInt8(route.destination.prefixLength)
        fixed.rtm_table = UInt8(Route.mainTable)
        fixed.rtm_protocol = GatewayRoute.learntOrigin
        fixed.rtm_type = UInt8(RTN_UNICAST)
        fixed.rtm_scope = UInt8(RT_SCOPE_UNIVERSE.rawValue)
        message.put(fixed)
        message.put(RTA_DST.rawValue, bytes: route.destination.base.bytes)
        message.put(RTA_PRIORITY.rawValue, GatewayRoute.metric)
        return message
    }
}

extension NetlinkSocket {
    /// The learnt routes that the kernel has.
    public func gatewayRoutes(_ family: IPFamily) throws -> [GatewayRoute] {
        var routes: [CIDR: Set<IPAddress>] = [:]
        try dump {
            var message = NetlinkMessage("list learnt routes", type: RTM_GETROUTE)
            var fixed = rtmsg()
            fixed.rtm_family = family.socketFamily
            fixed.rtm_table = UInt8(Route.mainTable)
            fixed.rtm_protocol = GatewayRoute.learntOrigin
            message.put(fixed)
            return message
        } restart: {
            routes = [:]
        } visit: { reply in
            guard let fixed = reply.fixed(rtmsg.self), fixed.rtm_protocol == GatewayRoute.learntOrigin else { return }
            var base = IPAddress(family, number: 0)
            var gateways: Set<IPAddress> = []
            for attribute in reply.attributes(after: rtmsg.self) {
                switch attribute.type {
                case Int(RTA_DST.rawValue): base = attribute.address ?? base
                case Int(RTA_GATEWAY.rawValue): gateways.formUnion([attribute.address].compactMap(\.self))
                case Int(RTA_MULTIPATH.rawValue): gateways.formUnion(Self.gateways(attribute.bytes))
                default: break
                }
            }
            // IPv6 may tell each gateway by itself.
            routes[CIDR(containing: base, prefixLength: Int(fixed.rtm_dst_len)), default: []].formUnion(gateways)
        }
        return routes.filter { !$0.value.isEmpty }.map { GatewayRoute(destination: $0.key, gateways: $0.value) }
    }

    private static func gateways(_ hops: UnsafeRawBufferPointer) -> [IPAddress] {
        var (gateways, offset) = ([IPAddress](), 0)
        while offset + 8 <= hops.count {
            let length = Int(hops.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
            guard length >= 8, offset + length <= hops.count else { break }
            let attributes = NetlinkAttributes(UnsafeRawBufferPointer(rebasing: hops[(offset + 8)..<(offset + length)]))
            if let gateway = attributes[RTA_GATEWAY.rawValue]?.address { gateways.append(gateway) }
            offset += (length + 3) & ~3
        }
        return gateways
    }
}
