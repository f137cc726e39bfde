import Glibc
public import KnetCore
public import KnetLinux

/// The veth between a pod and its node. There is no bridge: the pod has /32 and /128 addresses, a default route to a
/// link-local gateway, and a permanent neighbour for it; the node's host routes and neighbours come from the reconciler.
public struct PodLink: Sendable {
    /// The gateways as pods see them. No interface has them: the pod's permanent neighbour stands in for an answer.
    public static let gateways: [IPFamily: IPAddress] = [
        .v4: .v4(0xA9FE_0101), .v6: .v6((UInt128(0xFE80) << 112) | 1),
    ]
    /// The mark on the host's end (`IFLA_IFALIAS`); the attachment's identity follows.
    public static let aliasPrefix = "knetd pod "

    public let attachment: Attachment
    /// Bytes, for each family of the pod's addresses.
    public let mtu: [IPFamily: Int]

    public init(attachment: Attachment, mtu: [IPFamily: Int]) {
        self.attachment = attachment
        self.mtu = mtu
    }

    /// The interface's MTU; a family that needs less has it on its route.
    public var linkMTU: Int { mtu.values.max() ?? 1500 }

    /// The pod's side of a link that is to be made, looked at from inside the namespace.
    public struct Namespace {
        public let descriptor: Int32
        public let cookie: UInt64
        /// Bound to the namespace, whatever thread uses it.
        let socket: NetlinkSocket

        /// - Parameter families: those that the pod will have. Some runtimes make namespaces in which IPv6 is off; it is
        ///   turned on where it is needed.
        public init(_ namespace: NetworkNamespace, families: [IPFamily] = []) throws {
            descriptor = namespace.number
            (cookie, socket) = try namespace.run {
                if families.contains(.v6) { try Self.enableIPv6() }
                return (try NetworkNamespace.currentCookie(), try NetlinkSocket())
            }
        }

        private static func enableIPv6() throws {
            for scope in ["all", "default"] {
                let name = "net/ipv6/conf/\(scope)/disable_ipv6"
                if try Sysctl.read(name) == "1" { try Sysctl.write(name, "0") }
            }
        }
    }

    /// Makes both ends, and the pod's addresses and routes. The interface that an earlier plugin of the chain made is only
    /// shaped.
    /// - Throws: `CNIError`; what was made until then is left to `remove`.
    public func create(in namespace: Namespace, pool: NetlinkPool) throws {
        if let chained = attachment.options.chained {
            try shape(chained.hostLink, pool)
            return
        }
        let request = VethRequest(
            name: attachment.hostLink, mac: attachment.hostMAC, alias: Self.alias(of: attachment),
            peerName: attachment.id.interface, peerMAC: attachment.podMAC, peerNamespace: namespace.descriptor,
            mtu: linkMTU)
        do {
            try pool.with { try $0.createVeth(request) }
        } catch let error as SystemError where error.errno == EEXIST {
            throw CNIError(
                .alreadyAttached, "interface \(attachment.id.interface) exists already in \(attachment.namespacePath)",
                details: "another plugin or an earlier ADD made it; run DEL first or choose another CNI_IFNAME")
        }
        do {
            try configurePod(namespace.socket)
        } catch let error as SystemError where error.errno == EEXIST {
            throw CNIError(
                .alreadyAttached, "\(attachment.namespacePath) has a default route of another network already",
                details: "knetd must be the first network of a pod: \(error)")
        }
        try shape(attachment.hostLink, pool)
        try namespace.socket.awaitCarrier(named: attachment.id.interface)
        try pool.with { try $0.awaitCarrier(named: attachment.hostLink) }
    }

    private func shape(_ hostLink: String?, _ pool: NetlinkPool) throws {
        guard let bandwidth = attachment.options.bandwidth else { return }
        guard let hostLink, let index = try? NetlinkSocket.index(of: hostLink) else {
            throw CNIError(
                .invalidConfig, "the bandwidth of \(attachment.id) cannot be limited",
                details: "prevResult names no interface on the host")
        }
        try pool.with {
            try $0.shape(
                link: index, shaper: attachment.shaperLink, alias: Self.alias(of: attachment), bandwidth)
        }
    }

    /// Removes the links, and with them all that stands on them; one that is not there is no error.
    public static func remove(_ ids: [AttachmentID], pool: NetlinkPool) throws {
        try pool.with {
            try $0.deleteLinks(ids.flatMap { [Attachment.hostLink(of: $0), Attachment.shaperLink(of: $0)] })
        }
    }

    /// What makes a link known as ours and, should the store be lost, as whose: the attachment's identity and, where it
    /// fits (IFALIASZ of <linux/if.h>, 256), its network.
    static func alias(of attachment: Attachment) -> String {
        let short = aliasPrefix + attachment.id.description
        let long = short + " " + attachment.network
        return long.utf8.count < 256 ? long : short
    }

    public static func isPodLink(_ link: Link) -> Bool {
        link.kind == "veth" && link.alias?.hasPrefix(aliasPrefix) == true
    }

    /// Over a socket in the pod's namespace.
    private func configurePod(_ socket: NetlinkSocket) throws {
        let index = try socket.link(named: attachment.id.interface).index
        var batch = NetlinkBatch()
        batch.append(.changeLink(index: Self.loopback, up: true))
        batch.append(.changeLink(index: index, up: true))
        for address in attachment.addresses {
            batch.append(.addAddress(address, prefixLength: address.family.bits, index: index))
        }
        for (family, gateway) in usedGateways {
            batch.append(.replaceNeighbour(Neighbour(index: index, address: gateway, mac: attachment.hostMAC)))
            batch.append(.addRoute(defaultRoute(family, gateway, index: index), replacing: false))
        }
        for case let error? in try socket.send(batch) { throw error }
    }

    /// LOOPBACK_IFINDEX of the kernel's <net/flow.h>: the same in every namespace.
    private static let loopback: Int32 = 1

    private var usedGateways: [(IPFamily, IPAddress)] {
        Set(attachment.addresses.map(\.family)).sorted().compactMap { family in
            Self.gateways[family].map { (family, $0) }
        }
    }

    private func defaultRoute(_ family: IPFamily, _ gateway: IPAddress, index: Int32) -> Route {
        Route(
            destination: CIDR(containing: gateway, prefixLength: 0), gateway: gateway, index: index,
            onlink: family == .v4, mtu: mtu[family].flatMap { $0 < linkMTU ? $0 : nil })
    }

    /// What is not as ADD left it, in words; empty where all is.
    public func differences(in namespace: Namespace, pool: NetlinkPool) throws -> [String] {
        let (hostLinks, shaped) = try pool.with { (try $0.links(), try $0.shapedLinks()) }
        var found = shaping(hostLinks, shaped)
        if attachment.options.chained != nil { return found }
        if !hostLinks.contains(where: { $0.name == attachment.hostLink && $0.isUp }) {
            found.append("host link \(attachment.hostLink) is missing or down")
        }
        return found + (try podDifferences(namespace.socket))
    }

    private func shaping(_ links: [Link], _ shaped: Set<Int32>) -> [String] {
        var devices: [String] = []
        let chained = attachment.options.chained
        let host = chained == nil ? attachment.hostLink : chained?.hostLink
        if attachment.options.bandwidth?.ingress != nil, let host { devices.append(host) }
        if attachment.options.bandwidth?.egress != nil { devices.append(attachment.shaperLink) }
        return devices.filter { name in !links.contains { $0.name == name && shaped.contains($0.index) } }
            .map { "\($0) does not limit the bandwidth" }
    }

    private func podDifferences(_ socket: NetlinkSocket) throws -> [String] {
        guard let link = try? socket.link(named: attachment.id.interface) else {
            return ["interface \(attachment.id.interface) is missing"]
        }
        var found: [String] = []
        if !link.isUp { found.append("interface \(link.name) is down") }
        if link.mac != attachment.podMAC { found.append("interface \(link.name) has another MAC address") }
        let present = try socket.addresses().filter { $0.index == link.index }.map(\.address)
        for address in attachment.addresses where !present.contains(address) {
            found.append("address \(address) is missing")
        }
        let neighbours = try socket.permanentNeighbours()
        for (_, gateway) in usedGateways
        where !neighbours.contains(Neighbour(index: link.index, address: gateway, mac: attachment.hostMAC)) {
            found.append("permanent neighbour \(gateway) is missing")
        }
        for (family, gateway) in usedGateways {
            let routes = try socket.routes(family)
            if !routes.contains(where: {
                $0.destination.prefixLength == 0 && $0.gateway == gateway && $0.index == link.index
            }) {
                found.append("default route via \(gateway) is missing")
            }
        }
        return found
    }
}
