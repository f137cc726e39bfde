import CMnl
import Glibc
public import KnetCore
import Synchronization

/// What the kernel told about itself.
public enum KernelEvent: Sendable, Hashable {
    case link
    /// The host's end of a pod's link is down.
    case podLinkDown(name: String)
    case address
    case route
    /// A route that is not ours, in the place of another that may have been.
    case routeReplaced(CIDR)
    case neighbour
    case sysctl
    /// A table of ours, without its family.
    case nftables(table: String)
    /// Events were lost (`ENOBUFS`): anything may have changed.
    case lost
}

/// Listens to the kernel's notifications of one network namespace and calls `notify` for those that others caused.
/// The thread lives as long as the process.
public enum NetlinkMonitor {
    private static let lost = Atomic(0)

    /// How often the kernel had to drop notifications since the start of the process.
    public static var losses: Int { lost.load(ordering: .relaxed) }

    /// - Parameters:
    ///   - pool: requests sent through it cause no event.
    ///   - receiveBuffer: bytes; `nil` leaves the kernel's default. Tests make it small to lose events.
    ///   - notify: called from the monitor's thread for every datagram, with what it told of; it must not block.
    public static func start(
        pool: NetlinkPool, receiveBuffer: Int32? = 4 << 20, notify: @escaping @Sendable (Set<KernelEvent>) -> Void
    ) throws {
        let routeGroups = [
            RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE,
            RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF,
        ].map { Int32($0.rawValue) }
        try listen(NETLINK_ROUTE, groups: routeGroups, pool, receiveBuffer, notify)
        try listen(NETLINK_NETFILTER, groups: [Int32(NFNLGRP_NFTABLES.rawValue)], pool, receiveBuffer, notify)
    }

    private static func listen(
        _ bus: Int32, groups: [Int32], _ pool: NetlinkPool, _ receiveBuffer: Int32?,
        _ notify: @escaping @Sendable (Set<KernelEvent>) -> Void
    ) throws {
        let descriptor = try open(bus, groups: groups, receiveBuffer)
        // Without this, a load of many elements would fill the buffer with what need not be heard.
        if bus == NETLINK_NETFILTER { try ignore(pool.known, descriptor.number) }
        try DedicatedThread.start(name: "knetd-monitor") {
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 16, alignment: 8)
            while true {
                let count = recv(descriptor.number, buffer.baseAddress, buffer.count, 0)
                if count < 0 {
                    if errno == EINTR { continue }
                    lost.add(1, ordering: .relaxed)
                    notify([.lost])
                    continue
                }
                var events: Set<KernelEvent> = []
                try? NetlinkSocket.visit(UnsafeRawBufferPointer(rebasing: buffer[..<count])) { reply in
                    if !pool.owns(port: reply.portID), let event = KernelEvent(reply) {
                        events.insert(event)
                    }
                    return true
                }
                if !events.isEmpty { notify(events) }
            }
        }
    }

    /// Has the kernel keep messages from these ports back. A datagram has messages of one transaction, so of one port.
    private static func ignore(_ ports: Set<UInt32>, _ descriptor: Int32) throws {
        let ports = Array(ports.prefix(200))
        // Words are read in network order.
        let tests = ports.enumerated().map { index, port in
            SocketFilter.step(BPF_JMP | BPF_JEQ | BPF_K, port.bigEndian, then: UInt8(ports.count - index))
        }
        let port = SocketFilter.step(BPF_LD | BPF_W | BPF_ABS, 12)
        let ends = [SocketFilter.step(BPF_RET, .max), SocketFilter.step(BPF_RET, 0)]
        try SocketFilter([port] + tests + ends).attach(to: descriptor)
    }

    static func open(_ bus: Int32, groups: [Int32], _ receiveBuffer: Int32?) throws -> SharedDescriptor {
        let descriptor = Descriptor(
            owning: try syscall("netlink socket") {
                socket(AF_NETLINK, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), bus)
            })
        if var size = receiveBuffer {
            // FORCE needs CAP_NET_ADMIN, as everything here does.
            setsockopt(descriptor.number, SOL_SOCKET, SO_RCVBUFFORCE, &size, socklen_t(MemoryLayout<Int32>.size))
        }
        var address = sockaddr_nl()
        address.nl_family = sa_family_t(AF_NETLINK)
        try syscall("netlink bind") {
            withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(descriptor.number, $0, socklen_t(MemoryLayout<sockaddr_nl>.size))
                }
            }
        }
        for var group in groups {
            try syscall("join netlink group \(group)") {
                setsockopt(
                    descriptor.number, SOL_NETLINK, Int32(NETLINK_ADD_MEMBERSHIP), &group,
                    socklen_t(MemoryLayout<Int32>.size))
            }
        }
        return SharedDescriptor(descriptor)
    }
}

extension KernelEvent {
    /// `nil` for what cannot concern a dataplane: others' routes, neighbours, tables and settings of single links, and
    /// the coming and going of pods' links, which CNI requests and sweeps look after.
    init?(_ reply: NetlinkReply) {
        switch reply.type {
        case Int(RTM_NEWLINK), Int(RTM_DELLINK):
            guard let link = Link(reply) else { return nil }
            let isPod = link.kind == "veth" && link.name.hasPrefix(Attachment.hostLinkPrefix)
            if isPod, link.isUp || reply.type == Int(RTM_DELLINK) { return nil }
            self = isPod ? .podLinkDown(name: link.name) : .link
        case Int(RTM_NEWADDR), Int(RTM_DELADDR): self = .address
        case Int(RTM_NEWROUTE), Int(RTM_DELROUTE):
            guard let route = Route(reply) else { return nil }
            if route.origin == Route.knetdOrigin || route.destination.prefixLength == 0 {
                self = .route
            } else if Int32(reply.header.pointee.nlmsg_flags) & NLM_F_REPLACE != 0 {
                self = .routeReplaced(route.destination)
            } else {
                return nil
            }
        case Int(RTM_NEWNEIGH), Int(RTM_DELNEIGH):
            guard let fixed = reply.fixed(ndmsg.self) else { return nil }
            let attributes = reply.attributes(after: ndmsg.self)
            let isForwarding = Int32(fixed.ndm_family) == AF_BRIDGE && attributes[NDA_DST] != nil
            guard isForwarding || attributes[NDA_PROTOCOL]?.integer(UInt8.self) == Route.knetdOrigin else { return nil }
            self = .neighbour
        case Int(RTM_NEWNETCONF):
            // -1 is "all": NETCONFA_IFINDEX_ALL of <linux/netconf.h>.
            guard reply.attributes(after: netconfmsg.self)[NETCONFA_IFINDEX]?.integer(Int32.self) == -1 else {
                return nil
            }
            self = .sysctl
        case let type where type >> 8 == Int(NFNL_SUBSYS_NFTABLES):
            // The first attribute of every one of these messages is the table's name.
            guard let table = reply.attributes(after: nfgenmsg.self)[NFTA_TABLE_NAME.rawValue]?.text,
                table.hasPrefix("knetd")
            else { return nil }
            self = .nftables(table: table)
        default: return nil
        }
    }
}
