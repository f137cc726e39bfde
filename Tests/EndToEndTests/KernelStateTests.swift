import KnetCore
import KnetPlayground
import TestSupport
import Testing

/// What the kernel holds, read with iproute2 and nft, word for word.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct KernelStateTests {
    private func lines(_ text: String) -> [String] {
        text.split(separator: "\n").map { $0.split(separator: " ").joined(separator: " ") }.sorted()
    }

    @Test func anOverlayNodeHoldsWhatTheDesignSays() throws {
        try withPlayground(nodes: 2) { playground in
            try playground.addPod("a", node: "node1")
            let node = try playground.namespace("node1")
            let link = Attachment.hostLink(of: AttachmentID(containerID: "playground-a", interface: "eth0"))
            #expect(
                try lines(shell("ip -4 route show proto 107", in: node)) == [
                    "10.42.1.1 dev \(link) scope link", "10.42.2.0/24 via 10.42.2.0 dev knetd.1 onlink",
                    "unreachable 10.42.1.0/24",
                ])
            #expect(
                try lines(shell("ip -6 route show proto 107", in: node)) == [
                    "fd42:0:0:1::1 dev \(link) metric 1024 pref medium",
                    "fd42:0:0:2::/64 via fd42:0:0:2:: dev knetd6.1 metric 1024 onlink pref medium",
                    "unreachable fd42:0:0:1::/64 dev lo metric 1024 pref medium",
                ])
            #expect(
                try lines(shell("ip neigh show nud permanent | grep -v 'dev eth0'", in: node)) == [
                    "10.42.1.1 dev \(link) lladdr \(podMAC) PERMANENT proto 107",
                    "10.42.2.0 dev knetd.1 lladdr \(vtep4) PERMANENT proto 107",
                    "fd42:0:0:1::1 dev \(link) lladdr \(podMAC) PERMANENT proto 107",
                    "fd42:0:0:2:: dev knetd6.1 lladdr \(vtep6) PERMANENT proto 107",
                ])
            #expect(
                try lines(shell("bridge fdb show dev knetd.1; bridge fdb show dev knetd6.1", in: node))
                    == [
                        "\(vtep4) dst 192.168.77.12 self permanent", "\(vtep6) dst fd77::c self permanent",
                    ].sorted())
            let devices = try shell("ip -d -o link show type vxlan", in: node)
            for word in [
                "knetd.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450", "vxlan id 1 local 192.168.77.11 dev eth0",
                "knetd6.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1430", "vxlan id 1 local fd77::b dev eth0",
                "dstport 8472 nolearning", "addrgenmode none",
            ] { #expect(devices.contains(word), "\(devices)") }
            #expect(
                try shell("nft list table inet knetd_masquerade", in: node) == """
                    table inet knetd_masquerade {
                    \tchain postrouting {
                    \t\ttype nat hook postrouting priority srcnat; policy accept;
                    \t\tip saddr 10.42.1.0/24 ip daddr != { 10.42.0.0/16, 224.0.0.0/4 } masquerade fully-random
                    \t\tip6 saddr fd42:0:0:1::/64 ip6 daddr != { fd42::/48, ff00::/8 } masquerade fully-random
                    \t}
                    }

                    """)
            #expect(try shell("ip link show type bridge", in: node).isEmpty)
        }
    }

    @Test func aPodHoldsWhatTheDesignSays() throws {
        try withPlayground { playground in
            try playground.addPod("a", node: "node1")
            let pod = try playground.namespace("a")
            #expect(
                try lines(shell("ip -o addr show scope global", in: pod)).map { $0.split(separator: "\\")[0] } == [
                    "2: eth0 inet 10.42.1.1/32 scope global eth0",
                    "2: eth0 inet6 fd42:0:0:1::1/128 scope global nodad ",
                ])
            #expect(
                try lines(shell("ip -4 route", in: pod)) == ["default via 169.254.1.1 dev eth0 proto 107 onlink"])
            #expect(
                try lines(shell("ip -6 route show default", in: pod)) == [
                    "default via fe80::1 dev eth0 proto 107 metric 1024 mtu 1430 pref medium"
                ])
            #expect(
                try lines(shell("ip neigh", in: pod)) == [
                    "169.254.1.1 dev eth0 lladdr \(hostMAC) PERMANENT proto 107",
                    "fe80::1 dev eth0 lladdr \(hostMAC) PERMANENT proto 107",
                ])
            #expect(try shell("ip -o link show eth0", in: pod).contains("mtu 1450"))
            #expect(try shell("ip -o link show lo", in: pod).contains("LOWER_UP"))
        }
    }

    private let hostMAC = MACAddress(derivedFrom: "host playground-a/eth0").description
    private let podMAC = MACAddress(derivedFrom: "pod playground-a/eth0").description
    private let vtep4 = MACAddress(derivedFrom: "vtep IPv4 node2").description
    private let vtep6 = MACAddress(derivedFrom: "vtep IPv6 node2").description

    @Test func aRoutedNodeHoldsPlainRoutesAndNoDevice() throws {
        try withPlayground(nodes: 2, ["plugins": ["routed": [:]]]) { playground in
            let node = try playground.namespace("node1")
            #expect(
                try lines(shell("ip -4 route show proto 107; ip -6 route show proto 107", in: node)) == [
                    "10.42.2.0/24 via 192.168.77.12 dev eth0",
                    "fd42:0:0:2::/64 via fd77::c dev eth0 metric 1024 pref medium", "unreachable 10.42.1.0/24",
                    "unreachable fd42:0:0:1::/64 dev lo metric 1024 pref medium",
                ])
            #expect(try shell("ip link show type vxlan", in: node).isEmpty)
        }
    }
}
