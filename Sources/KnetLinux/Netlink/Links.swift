import CMnl
import Glibc
public import KnetCore

/// A network interface as the kernel has it.
public struct Link: Hashable, Sendable {
    public var index: Int32 = 0
    public var name = ""
    public var mac: MACAddress?
    /// Bytes.
    public var mtu = 0
    public var isUp = false
    /// Whether the kernel passes packets over it (`IFLA_OPERSTATE`), which devices without carrier do not tell.
    public var isOperational = false
    public var isLoopback = false
    /// `ip link set … alias`: where knetd puts its mark.
    public var alias: String?
    /// `veth`, `vxlan`, `bridge`; `nil` for hardware.
    public var kind: String?
    public var master: Int32?
    public var group: UInt32 = 0
    public var vxlan: VXLAN?
    /// `net.ipv4.conf.*.route_localnet`
    public var routesLoopback = false
    /// Index of the interface beneath, or of the other end of a veth, in its own namespace.
    public var peer: Int32?

    /// IF_OPER_UP of <linux/if.h>, which cannot be read beside <net/if.h>.
    fileprivate static let operational: UInt8 = 6
}

/// The parameters of a VXLAN device (`IFLA_VXLAN_*`).
public struct VXLAN: Hashable, Sendable {
    public let vni: UInt32
    /// UDP destination port.
    public let port: UInt16
    /// Outer source address.
    public let local: IPAddress
    /// Index of the interface beneath.
    public let underlay: Int32
    /// Whether it learns MAC addresses from traffic.
    public let learning: Bool

    public init(vni: UInt32, port: UInt16, local: IPAddress, underlay: Int32, learning: Bool = false) {
        self.vni = vni
        self.port = port
        self.local = local
        self.underlay = underlay
        self.learning = learning
    }
}

/// Both ends of a veth that is to be made, the second directly in another namespace.
public struct VethRequest: Sendable {
    public let name: String
    public let mac: MACAddress
    public let alias: String?
    public let peerName: String
    public let peerMAC: MACAddress
    /// Open descriptor of the peer's network namespace; `nil` for the same one.
    public let peerNamespace: Int32?
    public let mtu: Int
    /// Whether the first end gets an IPv6 link-local address. A router that must find its neighbours needs one.
    public let hasLinkLocal: Bool

    public init(
        name: String, mac: MACAddress, alias: String?, peerName: String, peerMAC: MACAddress, peerNamespace: Int32?,
        mtu: Int, hasLinkLocal: Bool = false
    ) {
        self.hasLinkLocal = hasLinkLocal
        self.name = name
        self.mac = mac
        self.alias = alias
        self.peerName = peerName
        self.peerMAC = peerMAC
        self.peerNamespace = peerNamespace
        self.mtu = mtu
    }
}

extension NetlinkSocket {
    /// All interfaces of the namespace. While interfaces come and go without a pause, some may be among them that are gone.
    public func links() throws -> [Link] { try linkTable(by: \.name, NetlinkMessage.links) { Link($0) } }

    /// All interfaces of the namespace and no others.
    /// - Throws: `EAGAIN` where they came and went for three seconds.
    public func exactLinks() throws -> [Link] {
        var links: [Link] = []
        try dump(NetlinkMessage.links) {
            links = []
        } visit: {
            if let link = Link($0) { links.append(link) }
        }
        return links
    }

    /// The interface of the name.
    /// - Throws: `ENODEV` where there is none.
    public func link(named name: String) throws -> Link {
        var message = NetlinkMessage("find link \(name)", type: RTM_GETLINK)
        message.put(ifinfomsg())
        message.put(IFLA_IFNAME, text: name)
        var link: Link?
        try get(message) { link = Link($0) }
        guard let link else { throw SystemError("find link \(name)", errno: ENODEV) }
        return link
    }

    /// Waits until the kernel passes packets over a link whose other end has come up, at most a second. The kernel does so in
    /// its own time, later where many links change at once (net/core/link_watch.c); since Linux 6.8 it does at once for who
    /// asks for the link.
    public func awaitCarrier(named name: String) throws {
        for _ in 0..<200 {
            if try link(named: name).isOperational { return }
            usleep(5_000)
        }
    }

    /// Deletes the links of these names; one that is not there is no error. Several cost the time of one: the kernel waits
    /// for its readers once for a whole group.
    public func deleteLinks(_ names: [String]) throws {
        let indices = names.compactMap { try? Self.index(of: $0) }
        if indices.count > 1, try groupForDeletion(indices, names: Set(names)) {
            try request(.deleteLinks(group: Self.deletionGroup))
            return
        }
        var batch = NetlinkBatch()
        for name in names { batch.append(.deleteLink(name: name)) }
        for case let error? in try send(batch) where error.errno != ENODEV { throw error }
    }

    /// Four letters, `knet`: nobody else's number.
    private static let deletionGroup: UInt32 = 0x6B6E_6574

    /// - Returns: whether the group holds some of the named links and nothing else.
    private func groupForDeletion(_ indices: [Int32], names: Set<String>) throws -> Bool {
        var batch = NetlinkBatch()
        for index in indices { batch.append(.changeLink(index: index, group: Self.deletionGroup)) }
        for case let error? in try send(batch) where error.errno != ENODEV { throw error }
        // Somebody else's that is gone keeps them from being deleted at once, not more.
        let group = try links().filter { $0.group == Self.deletionGroup }
        return !group.isEmpty && group.allSatisfy { names.contains($0.name) }
    }

    /// Makes a veth, the host's end up, the peer down.
    public func createVeth(_ request: VethRequest) throws {
        try create(.createVeth(request), name: request.name, alias: request.alias, hasLinkLocal: request.hasLinkLocal)
    }

    /// Makes an ifb device, up.
    func createIFB(name: String, alias: String) throws {
        try create(.createIFB(name: name), name: name, alias: alias, hasLinkLocal: false)
    }

    /// Makes a VXLAN device, up.
    public func createVXLAN(name: String, mac: MACAddress, mtu: Int, alias: String, _ vxlan: VXLAN) throws {
        try create(.createVXLAN(name: name, mac: mac, mtu: mtu, vxlan), name: name, alias: alias, hasLinkLocal: false)
    }

    private func create(_ message: consuming NetlinkMessage, name: String, alias: String?, hasLinkLocal: Bool) throws {
        var batch = NetlinkBatch()
        batch.append(message)
        if !hasLinkLocal { batch.append(.withoutLinkLocal(name: name)) }
        batch.append(.raise(name: name, alias: alias))
        let errors = try send(batch)
        if let error = errors[0] { throw error }
        // A kernel without IPv6 refuses the one between, which then has no meaning.
        if let error = errors[errors.count - 1] {
            try request(.deleteLink(name: name))
            throw error
        }
    }

    /// Index of the interface of the name in the calling thread's namespace.
    /// - Throws: `ENODEV` where there is none.
    public static func index(of name: String) throws(SystemError) -> Int32 {
        let index = if_nametoindex(name)
        guard index != 0 else { throw SystemError("find link \(name)", errno: ENODEV) }
        return Int32(index)
    }

    /// Name of the interface of the index in the calling thread's namespace; `nil` where there is none.
    public static func name(of index: Int32) -> String? {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(IF_NAMESIZE)) { buffer in
            if_indextoname(UInt32(index), buffer.baseAddress).map { String(cString: $0) }
        }
    }
}

extension Link {
    init?(_ reply: NetlinkReply) {
        guard reply.type == Int(RTM_NEWLINK) || reply.type == Int(RTM_DELLINK), let fixed = reply.fixed(ifinfomsg.self)
        else { return nil }
        index = fixed.ifi_index
        isUp = fixed.ifi_flags & UInt32(IFF_UP) != 0
        isLoopback = fixed.ifi_flags & UInt32(IFF_LOOPBACK) != 0
        for attribute in reply.attributes(after: ifinfomsg.self) {
            switch attribute.type {
            case Int(IFLA_IFNAME): name = attribute.text
            case Int(IFLA_ADDRESS): mac = attribute.mac
            case Int(IFLA_OPERSTATE): isOperational = attribute.integer(UInt8.self) == Self.operational
            case Int(IFLA_MTU): mtu = Int(attribute.integer(UInt32.self) ?? 0)
            case Int(IFLA_IFALIAS): alias = attribute.text
            case Int(IFLA_MASTER): master = attribute.integer()
            case Int(IFLA_GROUP): group = attribute.integer() ?? 0
            case Int(IFLA_LINK): peer = attribute.integer()
            case Int(IFLA_AF_SPEC): routesLoopback = Self.routesLoopback(attribute)
            case Int(IFLA_LINKINFO):
                kind = attribute.nested[IFLA_INFO_KIND]?.text
                if kind == "vxlan", let data = attribute.nested[IFLA_INFO_DATA] { vxlan = VXLAN(data.nested) }
            default: break
            }
        }
    }
}

extension Link {
    /// From the array of all the interface's IPv4 settings.
    private static func routesLoopback(_ families: NetlinkAttributes.Element) -> Bool {
        guard let settings = families.nested[AF_INET]?.nested[IFLA_INET_CONF]?.bytes else { return false }
        // The array begins with the setting of number 1.
        let offset = (IPV4_DEVCONF_ROUTE_LOCALNET - 1) * MemoryLayout<UInt32>.size
        guard settings.count >= offset + MemoryLayout<UInt32>.size else { return false }
        return settings.loadUnaligned(fromByteOffset: offset, as: UInt32.self) != 0
    }
}

extension VXLAN {
    init?(_ attributes: NetlinkAttributes) {
        guard let vni = attributes[IFLA_VXLAN_ID]?.integer(UInt32.self),
            let port = attributes[IFLA_VXLAN_PORT]?.integer(UInt16.self),
            let local = (attributes[IFLA_VXLAN_LOCAL] ?? attributes[IFLA_VXLAN_LOCAL6])?.address
        else { return nil }
        self.init(
            vni: vni, port: UInt16(bigEndian: port), local: local,
            underlay: attributes[IFLA_VXLAN_LINK]?.integer(Int32.self) ?? 0,
            learning: attributes[IFLA_VXLAN_LEARNING]?.integer(UInt8.self) != 0)
    }
}

extension NetlinkMessage {
    fileprivate static func links() -> NetlinkMessage {
        var message = NetlinkMessage("list links", type: RTM_GETLINK)
        message.put(ifinfomsg())
        message.put(IFLA_EXT_MASK, UInt32(RTEXT_FILTER_SKIP_STATS))
        return message
    }

    private static let up = UInt32(IFF_UP)
    private static let createFlags = NLM_F_CREATE | NLM_F_EXCL

    /// A veth, both ends down: the kernel raises neither before both exist.
    fileprivate static func createVeth(_ request: VethRequest) -> NetlinkMessage {
        var message = NetlinkMessage("create veth \(request.name)", type: RTM_NEWLINK, flags: createFlags)
        message.put(ifinfomsg())
        message.put(IFLA_IFNAME, text: request.name)
        message.put(IFLA_ADDRESS, bytes: request.mac.bytes)
        message.put(IFLA_MTU, UInt32(request.mtu))
        message.nest(IFLA_LINKINFO) {
            $0.put(IFLA_INFO_KIND, text: "veth")
            $0.nest(IFLA_INFO_DATA) {
                $0.nest(VETH_INFO_PEER) { message in
                    message.put(ifinfomsg())
                    message.put(IFLA_IFNAME, text: request.peerName)
                    message.put(IFLA_ADDRESS, bytes: request.peerMAC.bytes)
                    message.put(IFLA_MTU, UInt32(request.mtu))
                    if let namespace = request.peerNamespace { message.put(IFLA_NET_NS_FD, namespace) }
                }
            }
        }
        return message
    }

    /// A VXLAN device that learns nothing: its FDB is written by knetd. It is down until `raise`.
    fileprivate static func createVXLAN(name: String, mac: MACAddress, mtu: Int, _ vxlan: VXLAN) -> NetlinkMessage {
        var message = NetlinkMessage("create VXLAN device \(name)", type: RTM_NEWLINK, flags: createFlags)
        message.put(ifinfomsg())
        message.put(IFLA_IFNAME, text: name)
        message.put(IFLA_ADDRESS, bytes: mac.bytes)
        message.put(IFLA_MTU, UInt32(mtu))
        message.nest(IFLA_LINKINFO) {
            $0.put(IFLA_INFO_KIND, text: "vxlan")
            $0.nest(IFLA_INFO_DATA) {
                $0.put(IFLA_VXLAN_ID, vxlan.vni)
                $0.put(IFLA_VXLAN_LINK, UInt32(vxlan.underlay))
                $0.put(vxlan.local.family == .v4 ? IFLA_VXLAN_LOCAL : IFLA_VXLAN_LOCAL6, bytes: vxlan.local.bytes)
                $0.put(IFLA_VXLAN_PORT, vxlan.port.bigEndian)
                $0.put(IFLA_VXLAN_LEARNING, UInt8(vxlan.learning ? 1 : 0))
                // No checksum outside, where IPv4 can do without (RFC 7348 section 5): what is inside has its own.
                $0.put(IFLA_VXLAN_UDP_CSUM, UInt8(0))
            }
        }
        return message
    }

    /// A bridge, up.
    public static func createBridge(name: String) -> NetlinkMessage {
        var message = NetlinkMessage("create bridge \(name)", type: RTM_NEWLINK, flags: createFlags)
        message.put(ifinfomsg(ifi_family: 0, __ifi_pad: 0, ifi_type: 0, ifi_index: 0, ifi_flags: up, ifi_change: up))
        message.put(IFLA_IFNAME, text: name)
        message.nest(IFLA_LINKINFO) { $0.put(IFLA_INFO_KIND, text: "bridge") }
        return message
    }

    /// Changes what is given and leaves the rest.
    public static func changeLink(
        index: Int32, up isUp: Bool? = nil, mtu: Int? = nil, mac: MACAddress? = nil, master: Int32? = nil,
        group: UInt32? = nil, routesLoopback: Bool? = nil
    ) -> NetlinkMessage {
        var message = NetlinkMessage("change link \(index)", type: RTM_NEWLINK)
        message.put(
            ifinfomsg(
                ifi_family: 0, __ifi_pad: 0, ifi_type: 0, ifi_index: index, ifi_flags: isUp == true ? up : 0,
                ifi_change: isUp == nil ? 0 : up))
        if let mtu { message.put(IFLA_MTU, UInt32(mtu)) }
        if let mac { message.put(IFLA_ADDRESS, bytes: mac.bytes) }
        if let master { message.put(IFLA_MASTER, UInt32(master)) }
        if let group { message.put(IFLA_GROUP, group) }
        if let routesLoopback {
            message.nest(IFLA_AF_SPEC) { families in
                families.nest(AF_INET) { ipv4 in
                    ipv4.nest(IFLA_INET_CONF) {
                        $0.put(IPV4_DEVCONF_ROUTE_LOCALNET, UInt32(routesLoopback ? 1 : 0))
                    }
                }
            }
        }
        return message
    }

    /// Deletes all links of a group at once, in the time that one takes.
    static func deleteLinks(group: UInt32) -> NetlinkMessage {
        var message = NetlinkMessage("delete links of group \(group)", type: RTM_DELLINK)
        message.put(ifinfomsg())
        message.put(IFLA_GROUP, group)
        return message
    }

    /// An ifb device: what is redirected to it leaves by its queue.
    static func createIFB(name: String) -> NetlinkMessage {
        var message = NetlinkMessage("create ifb \(name)", type: RTM_NEWLINK, flags: createFlags)
        message.put(ifinfomsg())
        message.put(IFLA_IFNAME, text: name)
        message.nest(IFLA_LINKINFO) { $0.put(IFLA_INFO_KIND, text: "ifb") }
        return message
    }

    public static func deleteLink(name: String) -> NetlinkMessage {
        var message = NetlinkMessage("delete link \(name)", type: RTM_DELLINK)
        message.put(ifinfomsg())
        message.put(IFLA_IFNAME, text: name)
        return message
    }

    /// No automatic link-local address: nothing of ours uses it, and it would be announced. The kernel takes this for a
    /// device that exists, and before it is up.
    fileprivate static func withoutLinkLocal(name: String) -> NetlinkMessage {
        var message = NetlinkMessage("configure link \(name)", type: RTM_NEWLINK)
        message.put(ifinfomsg())
        message.put(IFLA_IFNAME, text: name)
        message.nest(IFLA_AF_SPEC) {
            $0.nest(AF_INET6) { $0.put(IFLA_INET6_ADDR_GEN_MODE, UInt8(IN6_ADDR_GEN_MODE_NONE.rawValue)) }
        }
        return message
    }

    /// Marks a link as ours, which its creation does not take, and sets it up.
    fileprivate static func raise(name: String, alias: String?) -> NetlinkMessage {
        var message = NetlinkMessage("raise link \(name)", type: RTM_NEWLINK)
        message.put(ifinfomsg(ifi_family: 0, __ifi_pad: 0, ifi_type: 0, ifi_index: 0, ifi_flags: up, ifi_change: up))
        message.put(IFLA_IFNAME, text: name)
        if let alias { message.put(IFLA_IFALIAS, bytes: Array(alias.utf8)) }
        return message
    }
}
