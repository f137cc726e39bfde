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

    /// Makes both ends, and the pod's addresses and routes.
    /// - Throws: `CNIError`; what was made until then is removed.
    public func create(in namespace: NetworkNamespace, pool: NetlinkPool) throws {
        let request = VethRequest(
            name: attachment.hostLink, mac: attachment.hostMAC, alias: Self.aliasPrefix + attachment.id.description,
            peerName: attachment.id.interface, peerMAC: attachment.podMAC, peerNamespace: namespace.number, mtu: linkMTU
        )
        do {
            try pool.with { try $0.createVeth(request) }
        } catch let error as SystemError where error.errno == EEXIST {
            throw CNIError(
                .alreadyAttached, "interface \(attachment.id.interface) exists already in \(attachment.namespacePath)",
                details: "another plugin or an earlier ADD made it; run DEL first or choose another CNI_IFNAME")
        }
        do {
            try namespace.run(configurePod)
        } catch {
            try? Self.remove(attachment.id, pool: pool)
            if let error = error as? SystemError, error.errno == EEXIST {
                throw CNIError(
                    .alreadyAttached, "\(attachment.namespacePath) has a default route of another network already",
                    details: "knetd must be the first network of a pod: \(error)")
            }
            throw error
        }
    }

    /// Removes the link, and with it all that stands on it; one that is not there is no error.
    public static func remove(_ id: AttachmentID, pool: NetlinkPool) throws {
        let error = try pool.with { socket in
            var batch = NetlinkBatch()
            batch.append(.deleteLink(name: Attachment.hostLink(of: id)))
            return try socket.send(batch)[0]
        }
        if let error, error.errno != ENODEV { throw error }
    }

    /// Runs in the pod's namespace.
    private func configurePod() throws {
        let socket = try NetlinkSocket()
        let index = try NetlinkSocket.index(of: attachment.id.interface)
        if mtu[.v6] != nil { try enableIPv6() }
        var batch = NetlinkBatch()
        batch.append(.changeLink(index: try NetlinkSocket.index(of: "lo"), up: true))
        batch.append(.changeLink(index: index, up: true))
        for address in attachment.addresses {
            batch.append(.addAddress(address, prefixLength: address.family.bits, index: index))
        }
        for (family, gateway) in usedGateways {
            batch.append(.replaceNeighbour(Neighbour(index: index, address: gateway, mac: attachment.hostMAC)))
            batch.append(.addRoute(defaultRoute(family, gateway, index: index), replacing: false))
        }
        for error in try socket.send(batch) {
            if let error { throw error }
        }
    }

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

    /// Some runtimes make namespaces in which IPv6 is off.
    private func enableIPv6() throws {
        for scope in ["all", "default", attachment.id.interface] {
            let name = "net/ipv6/conf/\(scope)/disable_ipv6"
            if try Sysctl.read(name) == "1" { try Sysctl.write(name, "0") }
        }
    }

    /// What is not as ADD left it, in words; empty where all is.
    public func differences(in namespace: NetworkNamespace, pool: NetlinkPool) throws -> [String] {
        var found: [String] = []
        let hostLinks = try pool.with { try $0.links() }
        if !hostLinks.contains(where: { $0.name == attachment.hostLink && $0.isUp }) {
            found.append("host link \(attachment.hostLink) is missing or down")
        }
        try namespace.run {
            let socket = try NetlinkSocket()
            guard let link = try socket.links().first(where: { $0.name == attachment.id.interface }) else {
                found.append("interface \(attachment.id.interface) is missing")
                return
            }
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
        }
        return found
    }
}
