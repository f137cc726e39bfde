import KnetCore
import KnetLinux

/// A way between two pods.
struct Path {
    let name: String
    /// The pod that asks.
    let client: NetworkNamespace
    /// The pod that answers, at `address`.
    let server: NetworkNamespace
    let address: IPAddress
    var port = Load.port
    /// The Service by which it is asked; `nil`: it itself.
    var service: Endpoint?
    /// Namespaces between the two: they would end with the last that holds them.
    var between: [NetworkNamespace] = []
}

/// One end of a veth inside a pod: what a runtime's plugin would set up.
struct PodEnd {
    let namespace: NetworkNamespace
    let address: IPAddress
    let prefixLength: Int
    /// Bytes.
    var mtu = 1500
    /// Via which everything else goes; `nil` for a pod that has no node.
    var gateway: IPAddress?
    /// Given where the gateway is on no subnet of the pod's and answers no ARP.
    var gatewayMAC: MACAddress?

    /// Makes the veth from the calling thread's namespace, its other end up under the name of `link`.
    /// - Parameter mac: of the other end.
    func plug(link: String, mac: MACAddress) throws {
        try NetlinkSocket().createVeth(
            VethRequest(
                name: link, mac: mac, alias: nil, peerName: "eth0",
                peerMAC: MACAddress(derivedFrom: "\(address)"), peerNamespace: namespace.number, mtu: mtu))
        try namespace.run(configure)
    }

    /// Leads what is sent to the pod into `link` of the calling thread's namespace, without a question for its MAC address.
    func route(link: String) throws {
        let index = try NetlinkSocket.index(of: link)
        var batch = NetlinkBatch()
        batch.append(
            .replaceNeighbour(
                Neighbour(index: index, address: address, mac: MACAddress(derivedFrom: "\(address)"))))
        batch.append(
            .addRoute(
                Route(destination: CIDR(host: address), index: index, origin: Kernel.administrator), replacing: true))
        try NetlinkSocket().all(batch)
    }

    private func configure() throws {
        let socket = try NetlinkSocket()
        let index = try NetlinkSocket.index(of: "eth0")
        var batch = NetlinkBatch()
        batch.append(.changeLink(index: try NetlinkSocket.index(of: "lo"), up: true))
        batch.append(.changeLink(index: index, up: true))
        batch.append(.addAddress(address, prefixLength: prefixLength, index: index))
        if let gateway, let gatewayMAC {
            batch.append(.replaceNeighbour(Neighbour(index: index, address: gateway, mac: gatewayMAC)))
        }
        if let gateway {
            batch.append(
                .addRoute(
                    Route(
                        destination: CIDR(containing: gateway, prefixLength: 0), gateway: gateway, index: index,
                        onlink: gatewayMAC != nil, origin: Kernel.administrator), replacing: true))
        }
        try socket.all(batch)
    }
}

/// Steps that several topologies share; all work on the calling thread's namespace.
enum Kernel {
    /// RTPROT_STATIC, <linux/rtnetlink.h>: an administrator's route.
    static let administrator: UInt8 = 4

    /// Makes a Linux bridge with an address, the gateway of the pods on it.
    /// - Parameter mtu: bytes.
    static func bridge(_ name: String, _ address: IPAddress, prefixLength: Int, mtu: Int) throws {
        let socket = try NetlinkSocket()
        try socket.request(.createBridge(name: name))
        let index = try NetlinkSocket.index(of: name)
        // A bridge without an address of its own takes the lowest of its ports', and changes with them.
        try socket.request(.changeLink(index: index, mtu: mtu, mac: MACAddress(derivedFrom: "\(name) \(address)")))
        try socket.request(.addAddress(address, prefixLength: prefixLength, index: index))
    }

    static func attach(_ link: String, to bridge: String) throws {
        let index = try NetlinkSocket.index(of: link)
        try NetlinkSocket().request(.changeLink(index: index, master: NetlinkSocket.index(of: bridge)))
    }

    static func forward() throws { try Sysctl.write("net/ipv4/ip_forward", "1") }

    /// Whether frames that a bridge forwards run through the IP hooks too, which Kubernetes asks for with a bridge.
    static func setBridgeCallsIPHooks(_ isOn: Bool) throws {
        try Sysctl.write("net/bridge/bridge-nf-call-iptables", isOn ? "1" : "0")
    }

    /// The least that a node with a bridge has: connection tracking, forwarding of what is known, masquerade.
    static func installRules(masquerade pods: CIDR) throws {
        try Nftables().run(
            """
            table ip bench {
                chain forward {
                    type filter hook forward priority filter; policy accept;
                    ct state established,related accept
                }
                chain postrouting {
                    type nat hook postrouting priority srcnat; policy accept;
                    ip saddr \(pods) ip daddr != \(pods) masquerade
                }
            }
            """)
    }
}

extension NetlinkSocket {
    /// Sends the batch.
    /// - Throws: the first error.
    func all(_ batch: borrowing NetlinkBatch) throws {
        for case let error? in try send(batch) { throw error }
    }
}
