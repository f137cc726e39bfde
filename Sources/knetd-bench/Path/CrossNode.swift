import KnetCore
import KnetLinux
import KnetPlayground

/// Ways between pods of two nodes that others take, over the same kind of network as the playground's.
struct CrossNode {
    static let direct = "direct routes, /32 pods, no rules"
    static let flannel = "VXLAN as Flannel's: bridge, nf-call 1, masquerade"

    private let lan: NetworkNamespace
    private let nodes: [NetworkNamespace]
    private let pods: [NetworkNamespace]

    private init() throws {
        lan = try .anonymous()
        nodes = try (0..<2).map { _ in try .anonymous() }
        pods = try (0..<2).map { _ in try .anonymous() }
        let network = Lan(namespace: lan, families: [.v4], mtu: 1500)
        try network.build()
        for (index, node) in nodes.enumerated() {
            try network.connect(node, name: "node\(index + 1)", host: 11 + index)
            try node.run(Kernel.forward)
        }
    }

    /// The bare minimum of routing, as Calico without encapsulation and Flannel's host-gw do it: a host route for each pod,
    /// one route to the other node, no rules: the physical limit.
    static func directRoutes() throws -> Path {
        let topology = try CrossNode()
        for index in 0..<2 {
            let end = PodEnd(
                namespace: topology.pods[index], address: pod(index), prefixLength: 32, gateway: .v4(0xA9FE_0101),
                gatewayMAC: hostEnd)
            try topology.nodes[index].run {
                try end.plug(link: "pod", mac: hostEnd)
                try end.route(link: "pod")
                let toOther = route(
                    range(1 - index), via: try address(1 - index), index: try NetlinkSocket.index(of: "eth0"))
                try NetlinkSocket().request(.addRoute(toOther, replacing: true))
            }
        }
        return topology.path(direct)
    }

    /// A bridge on each node and a VXLAN device with static entries, as Flannel makes them (backend/vxlan of flanneld).
    static func vxlan() throws -> Path {
        let topology = try CrossNode()
        for index in 0..<2 {
            let end = PodEnd(
                namespace: topology.pods[index], address: pod(index), prefixLength: 24, mtu: 1450,
                gateway: gateway(index))
            try topology.nodes[index].run {
                try Kernel.setBridgeCallsIPHooks(true)
                try Kernel.installRules(masquerade: cluster)
                try Kernel.bridge("cni0", gateway(index), prefixLength: 24, mtu: 1450)
                try end.plug(link: "pod", mac: hostEnd)
                try Kernel.attach("pod", to: "cni0")
                try connectVXLAN(index)
            }
        }
        return topology.path(flannel)
    }

    private static func connectVXLAN(_ own: Int) throws {
        let name = "flannel.1"
        let socket = try NetlinkSocket()
        try socket.createVXLAN(
            name: name, mac: tunnelEnd(own), mtu: 1450, alias: "benchmark",
            VXLAN(vni: 1, port: 8472, local: try address(own), underlay: NetlinkSocket.index(of: "eth0")))
        let index = try NetlinkSocket.index(of: name)
        let peer = 1 - own
        var batch = NetlinkBatch()
        batch.append(.addAddress(range(own).base, prefixLength: 32, index: index))
        batch.append(.replaceNeighbour(Neighbour(index: index, address: range(peer).base, mac: tunnelEnd(peer))))
        batch.append(.replaceFDB(FDBEntry(index: index, mac: tunnelEnd(peer), destination: try address(peer))))
        batch.append(
            .addRoute(route(range(peer), via: range(peer).base, index: index, onlink: true), replacing: true))
        try socket.all(batch)
    }

    private func path(_ name: String) -> Path {
        Path(name: name, client: pods[0], server: pods[1], address: Self.pod(1), between: nodes + [lan])
    }

    // MARK: Addresses

    private static let cluster = CIDR(containing: .v4(0x0A5D_0000), prefixLength: 16)
    private static let hostEnd = MACAddress(derivedFrom: "host's end")

    private static func range(_ node: Int) -> CIDR {
        CIDR(containing: .v4(0x0A5D_0100 + UInt32(node) << 8), prefixLength: 24)
    }

    private static func gateway(_ node: Int) -> IPAddress { .v4(0x0A5D_0101 + UInt32(node) << 8) }
    private static func pod(_ node: Int) -> IPAddress { .v4(0x0A5D_0102 + UInt32(node) << 8) }
    private static func tunnelEnd(_ node: Int) -> MACAddress { MACAddress(derivedFrom: "tunnel's end \(node)") }

    private static func address(_ node: Int) throws -> IPAddress {
        guard let address = Lan.address(.v4, host: 11 + node) else {
            throw Playground.Failure("the playground's network has no IPv4 addresses")
        }
        return address
    }

    private static func route(_ destination: CIDR, via gateway: IPAddress?, index: Int32, onlink: Bool = false) -> Route
    {
        Route(
            destination: destination, gateway: gateway, index: index, onlink: onlink, origin: Kernel.administrator)
    }
}
