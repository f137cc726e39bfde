import CMnl
import Glibc
import KnetCore
import KnetLinux

/// A link on which is answered.
struct AnsweringLink {
    let link: Link
    let mac: MACAddress
    let socket: SharedDescriptor
    /// A socket of IPv6, by whose memberships the link hears what is asked there.
    let groups: SharedDescriptor
    var joined: Set<IPAddress> = []
}

extension AnsweringLink {
    init(_ link: Link) throws(SystemError) {
        guard let mac = link.mac, mac.isUnicast else {
            throw SystemError("a link without a MAC address", errno: ENOTSUP)
        }
        self.link = link
        self.mac = mac
        // Of no protocol until the filter is there.
        let descriptor = Descriptor(
            owning: try syscall("packet socket") {
                Glibc.socket(AF_PACKET, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            })
        try Self.questions.attach(to: descriptor.number)
        var name = sockaddr_ll()
        name.sll_family = sa_family_t(AF_PACKET)
        name.sll_protocol = UInt16(ETH_P_ALL).bigEndian
        name.sll_ifindex = link.index
        try syscall("bind to \(link.name)") {
            withUnsafePointer(to: &name) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(descriptor.number, $0, socklen_t(MemoryLayout<sockaddr_ll>.size))
                }
            }
        }
        socket = SharedDescriptor(descriptor)
        groups = SharedDescriptor(
            Descriptor(
                owning: try syscall("socket") {
                    Glibc.socket(AF_INET6, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
                }))
    }

    /// ARP requests and neighbour solicitations.
    private static let questions = SocketFilter([
        SocketFilter.step(BPF_LD | BPF_H | BPF_ABS, 12),
        SocketFilter.step(BPF_JMP | BPF_JEQ | BPF_K, 0x0806, otherwise: 2),
        SocketFilter.step(BPF_LD | BPF_H | BPF_ABS, 20),
        SocketFilter.step(BPF_JMP | BPF_JEQ | BPF_K, 1, then: 5, otherwise: 6),
        SocketFilter.step(BPF_JMP | BPF_JEQ | BPF_K, 0x86DD, otherwise: 5),
        SocketFilter.step(BPF_LD | BPF_B | BPF_ABS, 20),
        SocketFilter.step(BPF_JMP | BPF_JEQ | BPF_K, 58, otherwise: 3),
        SocketFilter.step(BPF_LD | BPF_B | BPF_ABS, 54),
        SocketFilter.step(BPF_JMP | BPF_JEQ | BPF_K, 135, otherwise: 1),
        SocketFilter.step(BPF_RET, 256),
        SocketFilter.step(BPF_RET, 0),
    ])

    func isOn(_ other: Link) -> Bool {
        link.index == other.index && link.name == other.name && link.mac == other.mac
    }

    func send(_ frame: [UInt8]) {
        // What cannot be sent now is asked for again.
        _ = Glibc.send(socket.number, frame, frame.count, Int32(MSG_DONTWAIT))
    }

    /// Hears what is asked about these addresses of IPv6.
    /// - Returns: whether it hears of all of them.
    mutating func join(_ addresses: Set<IPAddress>) -> Bool {
        let wanted = Set(addresses.filter { $0.family == .v6 }.map(LinkFrames.solicitedNode))
        for group in wanted.symmetricDifference(joined) {
            var request = ipv6_mreq()
            withUnsafeMutableBytes(of: &request.ipv6mr_multiaddr) { $0.copyBytes(from: group.bytes) }
            request.ipv6mr_interface = UInt32(link.index)
            let isWanted = wanted.contains(group)
            let status = setsockopt(
                groups.number, Int32(IPPROTO_IPV6), isWanted ? IPV6_JOIN_GROUP : IPV6_LEAVE_GROUP, &request,
                socklen_t(MemoryLayout<ipv6_mreq>.size))
            if !isWanted { joined.remove(group) } else if status == 0 { joined.insert(group) }
        }
        return joined == wanted
    }
}
