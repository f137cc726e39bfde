import CMnl
import Glibc
public import KnetCore

/// A route: to a gateway, onto a link, or to nowhere.
public struct Route: Hashable, Sendable {
    public var destination: CIDR
    public var gateway: IPAddress?
    /// Outgoing interface; 0 for an unreachable destination, which the kernel answers with an ICMP error.
    public var index: Int32
    /// Whether the gateway is taken to be on the link although no address says so.
    public var onlink: Bool
    /// Bytes; `nil` leaves it to the interface.
    public var mtu: Int?
    /// `RTPROT_*`: who made the route.
    public var origin: UInt8
    public var table: UInt32
    public var metric: UInt32

    /// The route protocol number that marks knetd's routes; unassigned in the kernel's and iproute2's tables.
    public static let knetdOrigin: UInt8 = 107
    /// In a deletion: whoever made the route (`RTPROT_UNSPEC`).
    public static let anyOrigin: UInt8 = 0
    /// RT_TABLE_MAIN of <linux/rtnetlink.h>.
    public static let mainTable: UInt32 = 254

    public init(
        destination: CIDR, gateway: IPAddress? = nil, index: Int32, onlink: Bool = false, mtu: Int? = nil,
        origin: UInt8 = Route.knetdOrigin, table: UInt32 = Route.mainTable, metric: UInt32 = 0
    ) {
        self.destination = destination
        self.gateway = gateway
        self.index = index
        self.onlink = onlink
        self.mtu = mtu
        self.origin = origin
        self.table = table
        self.metric = metric
    }
}

extension NetlinkSocket {
    /// The unicast routes of the main table.
    /// - Parameter origin: only those of this protocol number; the kernel filters.
    public func routes(_ family: IPFamily, origin: UInt8? = nil) throws -> [Route] {
        var routes: [Route] = []
        try dump {
            var message = NetlinkMessage("list \(family) routes", type: RTM_GETROUTE)
            var fixed = rtmsg()
            fixed.rtm_family = family.socketFamily
            fixed.rtm_table = UInt8(Route.mainTable)
            fixed.rtm_protocol = origin ?? 0
            message.put(fixed)
            return message
        } restart: {
            routes = []
        } visit: { reply in
            guard let route = Route(reply), route.table == Route.mainTable,
                origin == nil || route.origin == origin
            else { return }
            routes.append(route)
        }
        return routes
    }
}

extension Route {
    init?(_ reply: NetlinkReply) {
        guard let fixed = reply.fixed(rtmsg.self), let family = IPFamily(socketFamily: fixed.rtm_family),
            [Int(RTN_UNICAST), Int(RTN_UNREACHABLE)].contains(Int(fixed.rtm_type))
        else { return nil }
        var address = IPAddress(family, number: 0)
        self.init(destination: CIDR(containing: address, prefixLength: 0), index: 0, origin: fixed.rtm_protocol)
        onlink = fixed.rtm_flags & UInt32(RTNH_F_ONLINK) != 0
        table = UInt32(fixed.rtm_table)
        for attribute in reply.attributes(after: rtmsg.self) {
            switch attribute.type {
            case Int(RTA_DST.rawValue): address = attribute.address ?? address
            case Int(RTA_GATEWAY.rawValue): gateway = attribute.address
            case Int(RTA_OIF.rawValue): index = attribute.integer() ?? 0
            case Int(RTA_TABLE.rawValue): table = attribute.integer() ?? table
            case Int(RTA_PRIORITY.rawValue): metric = attribute.integer() ?? 0
            case Int(RTA_METRICS.rawValue): mtu = attribute.nested[RTAX_MTU]?.integer(UInt32.self).map(Int.init)
            default: break
            }
        }
        if Int(fixed.rtm_type) == Int(RTN_UNREACHABLE) { index = 0 }
        destination = CIDR(containing: address, prefixLength: Int(fixed.rtm_dst_len))
        // The kernel gives every IPv6 route a metric, 1024 where none was asked for (IP6_RT_PRIO_USER).
        if family == .v6, metric == 1024 { metric = 0 }
    }
}

extension NetlinkMessage {
    /// Adds the route.
    /// - Parameter replacing: puts it in the place of the one to the same destination with the same metric, whoever
    ///   made that; otherwise such a route is an error, `EEXIST`.
    public static func addRoute(_ route: Route, replacing: Bool) -> NetlinkMessage {
        let flags = NLM_F_CREATE | (replacing ? NLM_F_REPLACE : NLM_F_EXCL)
        var message = routeMessage("route to \(route.destination)", RTM_NEWROUTE, route, flags)
        if let gateway = route.gateway { message.put(RTA_GATEWAY.rawValue, bytes: gateway.bytes) }
        if let mtu = route.mtu { message.nest(RTA_METRICS.rawValue) { $0.put(RTAX_MTU, UInt32(mtu)) } }
        return message
    }

    public static func deleteRoute(_ route: Route) -> NetlinkMessage {
        routeMessage("delete route to \(route.destination)", RTM_DELROUTE, route, 0)
    }

    private static func routeMessage(_ purpose: String, _ type: Int, _ route: Route, _ flags: Int32) -> NetlinkMessage {
        var message = NetlinkMessage(purpose, type: type, flags: flags)
        var fixed = rtmsg()
        fixed.rtm_family = route.destination.family.socketFamily
        fixed.rtm_dst_len = UInt8(route.destination.prefixLength)
        fixed.rtm_table = UInt8(route.table < 256 ? route.table : 0)
        fixed.rtm_protocol = route.origin
        fixed.rtm_type = UInt8(route.index == 0 ? RTN_UNREACHABLE : RTN_UNICAST)
        let isOnLink = route.gateway == nil && route.index != 0 && route.destination.family == .v4
        fixed.rtm_scope = UInt8(isOnLink ? RT_SCOPE_LINK.rawValue : RT_SCOPE_UNIVERSE.rawValue)
        fixed.rtm_flags = route.onlink ? UInt32(RTNH_F_ONLINK) : 0
        message.put(fixed)
        message.put(RTA_DST.rawValue, bytes: route.destination.base.bytes)
        if route.index != 0 { message.put(RTA_OIF.rawValue, UInt32(route.index)) }
        message.put(RTA_TABLE.rawValue, route.table)
        if route.metric != 0 { message.put(RTA_PRIORITY.rawValue, route.metric) }
        return message
    }
}
