package import KnetCore
package import KnetLinux

/// The network between the nodes: a namespace with a bridge that all nodes hang on and that routes to an outside host,
/// which knows nothing of pods.
package struct Lan {
    /// Addresses of the playground's networks: documentation and private ranges that knetd's defaults do not touch.
    static let prefixes: [IPFamily: (network: String, length: Int)] = [.v4: ("192.168.77.", 24), .v6: ("fd77::", 64)]
    static let outsidePrefixes: [IPFamily: (network: String, length: Int)] = [
        .v4: ("203.0.113.", 24), .v6: ("fd99::", 64),
    ]

    package let namespace: NetworkNamespace
    package let families: [IPFamily]
    /// Bytes.
    package let mtu: Int

    package init(namespace: NetworkNamespace, families: [IPFamily], mtu: Int) {
        self.namespace = namespace
        self.families = families
        self.mtu = mtu
    }

    package static func address(_ family: IPFamily, host: Int, outside: Bool = false) -> IPAddress? {
        (outside ? outsidePrefixes : prefixes)[family].flatMap { prefix in
            IPAddress(prefix.network + (family == .v4 ? "\(host)" : String(host, radix: 16)))
        }
    }

    private static func prefixLength(_ family: IPFamily) -> Int { prefixes[family]?.length ?? family.bits }

    /// Builds the bridge and the router.
    package func build() throws {
        try namespace.run {
            try Self.skipDuplicateDetection()
            let socket = try NetlinkSocket()
            try socket.request(.changeLink(index: NetlinkSocket.index(of: "lo"), up: true))
            try socket.request(.createBridge(name: "lan"))
            let bridge = try NetlinkSocket.index(of: "lan")
            try socket.request(.changeLink(index: bridge, up: true, mtu: mtu))
            try Sysctl.write("net/ipv4/ip_forward", "1")
            try Sysctl.write("net/ipv6/conf/all/forwarding", "1")
            for family in families {
                guard let address = Self.address(family, host: 1) else { continue }
                try socket.request(.addAddress(address, prefixLength: Self.prefixLength(family), index: bridge))
            }
        }
    }

    /// Connects a node to the bridge.
    /// - Parameter host: the last part of its addresses.
    package func connect(_ node: NetworkNamespace, name: String, host: Int) throws {
        try plug(node, name: name)
        try namespace.run {
            let socket = try NetlinkSocket()
            let port = try NetlinkSocket.index(of: name)
            try socket.request(.changeLink(index: port, master: NetlinkSocket.index(of: "lan")))
        }
        try configure(node, host: host, outside: false)
    }

    /// Connects the outside host to the router.
    func connectOutside(_ outside: NetworkNamespace) throws {
        try plug(outside, name: "outside")
        try namespace.run {
            let socket = try NetlinkSocket()
            let port = try NetlinkSocket.index(of: "outside")
            for family in families {
                guard let address = Self.address(family, host: 1, outside: true) else { continue }
                try socket.request(.addAddress(address, prefixLength: Self.prefixLength(family), index: port))
            }
        }
        try configure(outside, host: 10, outside: true)
    }

    private func plug(_ namespace: NetworkNamespace, name: String) throws {
        try namespace.run(Self.skipDuplicateDetection)
        try self.namespace.run {
            try NetlinkSocket().createVeth(
                VethRequest(
                    name: name, mac: MACAddress(derivedFrom: "port \(name)"), alias: nil, peerName: "eth0",
                    peerMAC: MACAddress(derivedFrom: "playground \(name)"), peerNamespace: namespace.number, mtu: mtu,
                    hasLinkLocal: true))
        }
    }

    /// Real nodes have had their addresses for long; these are to be usable at once.
    private static func skipDuplicateDetection() throws {
        for scope in ["all", "default"] { try Sysctl.write("net/ipv6/conf/\(scope)/accept_dad", "0") }
    }

    private func configure(_ namespace: NetworkNamespace, host: Int, outside: Bool) throws {
        try namespace.run {
            let socket = try NetlinkSocket()
            let index = try NetlinkSocket.index(of: "eth0")
            var batch = NetlinkBatch()
            batch.append(.changeLink(index: try NetlinkSocket.index(of: "lo"), up: true))
            batch.append(.changeLink(index: index, up: true))
            for family in families {
                guard let address = Self.address(family, host: host, outside: outside),
                    let gateway = Self.address(family, host: 1, outside: outside)
                else { continue }
                batch.append(.addAddress(address, prefixLength: Self.prefixLength(family), index: index))
                // RTPROT_STATIC, <linux/rtnetlink.h>: an administrator's route.
                batch.append(
                    .addRoute(
                        Route(
                            destination: CIDR(containing: gateway, prefixLength: 0), gateway: gateway, index: index,
                            origin: 4), replacing: true))
            }
            for case let error? in try socket.send(batch) { throw error }
        }
    }
}
