import KnetCore
import KnetLinux

/// Ways between two pods of one node that others take.
enum SameNode {
    static let bareVeth = "bare veth"
    static let bridge = "bridge, nf-call 0"
    static let bridgeWithHooks = "bridge, nf-call 1 (conntrack, masquerade)"

    /// Two namespaces with one veth between them and no node: the physical limit.
    static func veth() throws -> Path {
        let client = try NetworkNamespace.anonymous()
        let server = try NetworkNamespace.anonymous()
        let address: IPAddress = .v4(0x0A5B_0002)
        let end = PodEnd(namespace: server, address: address, prefixLength: 24)
        try client.run {
            try end.plug(link: "eth0", mac: MACAddress(derivedFrom: "bare veth"))
            let index = try NetlinkSocket.index(of: "eth0")
            try NetlinkSocket().request(.addAddress(.v4(0x0A5B_0001), prefixLength: 24, index: index))
        }
        return Path(name: bareVeth, client: client, server: server, address: address)
    }

    /// Two pods on a Linux bridge. The same rules are loaded either way; they see these packets only where the bridge calls
    /// the IP hooks.
    static func bridge(callsIPHooks: Bool) throws -> Path {
        let node = try NetworkNamespace.anonymous()
        let pods = CIDR(containing: .v4(0x0A5C_0000), prefixLength: 24)
        let ends = try (2...3).map { host in
            PodEnd(
                namespace: try .anonymous(), address: .v4(0x0A5C_0000 + UInt32(host)), prefixLength: 24,
                gateway: .v4(0x0A5C_0001))
        }
        try node.run {
            try Kernel.forward()
            try Kernel.setBridgeCallsIPHooks(callsIPHooks)
            try Kernel.installRules(masquerade: pods)
            try Kernel.bridge("cni0", .v4(0x0A5C_0001), prefixLength: 24, mtu: 1500)
            for (number, end) in ends.enumerated() {
                try end.plug(link: "pod\(number)", mac: MACAddress(derivedFrom: "port \(end.address)"))
                try Kernel.attach("pod\(number)", to: "cni0")
            }
        }
        return Path(
            name: callsIPHooks ? bridgeWithHooks : bridge, client: ends[0].namespace, server: ends[1].namespace,
            address: ends[1].address, between: [node])
    }
}
