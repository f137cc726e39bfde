import KnetCore
import KnetDataplane
import Testing

@testable import OverlayPlugin

@Suite struct OverlayTests {
    private let overlay = Overlay(.init())
    private let dual = local([.v4: "192.168.1.1/24", .v6: "fd01::1/64"])

    private static func local(_ uplinks: [IPFamily: String], mtu: Int = 1500) -> LocalNode {
        LocalNode(
            name: "self", podCIDRs: ["10.42.1.0/24", "fd42:0:0:1::/64"].compactMap { CIDR($0) },
            uplinks: uplinks.compactMapValues { text in
                let parts = text.split(separator: "/")
                guard let address = IPAddress(parts[0]), let length = Int(parts[1]) else { return nil }
                return LocalNode.Uplink(
                    link: "eth0", address: address, subnet: CIDR(containing: address, prefixLength: length), mtu: mtu)
            })
    }

    private func peer(_ addresses: [String], annotations: [String: String] = [:]) -> Node {
        Node(
            name: "peer", podCIDRs: ["10.42.2.0/24", "fd42:0:0:2::/64"].compactMap { CIDR($0) },
            addresses: addresses.compactMap { IPAddress($0) },
            annotations: Dictionary(uniqueKeysWithValues: annotations.map { ("flannel.alpha.coreos.com/\($0)", $1) }))
    }

    private func text(_ entries: [NetworkEntry]) -> [String] { entries.map(\.description) }

    @Test func aPeerCostsOneRouteOneNeighbourAndOneFDBEntryInEachFamily() throws {
        #expect(
            try text(overlay.entries(peer: peer(["192.168.1.2", "fd01::2"]), local: dual)) == [
                "FDB entry \(Overlay.derivedMAC(node: "peer", .v4)) to 192.168.1.2 on knetd.1",
                "neighbour 10.42.2.0 at \(Overlay.derivedMAC(node: "peer", .v4)) on knetd.1",
                "route 10.42.2.0/24 via 10.42.2.0 dev knetd.1 onlink",
                "FDB entry \(Overlay.derivedMAC(node: "peer", .v6)) to fd01::2 on knetd6.1",
                "neighbour fd42:0:0:2:: at \(Overlay.derivedMAC(node: "peer", .v6)) on knetd6.1",
                "route fd42:0:0:2::/64 via fd42:0:0:2:: dev knetd6.1 onlink",
            ])
    }

    @Test func whereNodesHaveOneFamilyItCarriesBoth() throws {
        let local = Self.local([.v4: "192.168.1.1/24"])
        #expect(
            try text(overlay.entries(peer: peer(["192.168.1.2", "fd01::2"]), local: local)) == [
                "FDB entry \(Overlay.derivedMAC(node: "peer", .v4)) to 192.168.1.2 on knetd.1",
                "neighbour 10.42.2.0 at \(Overlay.derivedMAC(node: "peer", .v4)) on knetd.1",
                "route 10.42.2.0/24 via 10.42.2.0 dev knetd.1 onlink",
                "neighbour fd42:0:0:2:: at \(Overlay.derivedMAC(node: "peer", .v4)) on knetd.1",
                "route fd42:0:0:2::/64 via fd42:0:0:2:: dev knetd.1 onlink",
            ])
        #expect(
            text(overlay.entries(local: local)) == [
                "VXLAN device knetd.1", "address 10.42.1.0/32 on knetd.1", "address fd42:0:0:1::/128 on knetd.1",
            ])
    }

    @Test func theMTUFollowsTheUplinkAndTheOuterFamily() {
        #expect(overlay.mtu(.v4, local: dual) == 1450)
        #expect(overlay.mtu(.v6, local: dual) == 1430)
        #expect(overlay.mtu(.v6, local: Self.local([.v4: "192.168.1.1/24"])) == 1450)
        #expect(overlay.mtu(.v4, local: Self.local([.v4: "192.168.1.1/24"], mtu: 9000)) == 8950)
    }

    @Test func aFlannelNodesAnnotationsCount() throws {
        let flannel = peer(
            ["192.168.1.2"],
            annotations: [
                "backend-type": "vxlan", "backend-data": #"{"VNI":1,"VtepMAC":"8e:11:22:33:44:55"}"#,
                "public-ip": "192.168.1.22",
            ])
        let entries = try text(overlay.entries(peer: flannel, local: Self.local([.v4: "192.168.1.1/24"])))
        #expect(entries.contains("FDB entry 8e:11:22:33:44:55 to 192.168.1.22 on knetd.1"))
        #expect(entries.contains("neighbour 10.42.2.0 at 8e:11:22:33:44:55 on knetd.1"))
    }

    @Test(
        arguments: [
            (["backend-type": "host-gw"], "host-gw"),
            (["backend-data": #"{"VNI":7,"VtepMAC":"8e:11:22:33:44:55"}"#], "VXLAN network is 7"),
        ])
    func aPeerOfAnotherDialectIsUnreachableAndSaysWhy(annotations: [String: String], word: String) throws {
        let error = try #require(throws: UnreachablePeer.self) {
            try overlay.entries(peer: peer(["192.168.1.2"], annotations: annotations), local: dual)
        }
        #expect(error.reason.contains(word))
    }

    @Test func aPeerWithoutAnAddressIsUnreachableAndSaysWhy() throws {
        let error = try #require(throws: UnreachablePeer.self) { try overlay.entries(peer: peer([]), local: dual) }
        #expect(error.reason.contains("status.addresses"))
    }

    @Test func directRoutingLeavesVXLANToOtherSubnets() throws {
        let direct = Overlay(.init(directRouting: true))
        let local = Self.local([.v4: "192.168.1.1/24"])
        #expect(
            try text(direct.entries(peer: peer(["192.168.1.2"]), local: local)).first
                == "route 10.42.2.0/24 via 192.168.1.2 dev eth0")
        #expect(
            try text(direct.entries(peer: peer(["192.168.9.2"]), local: local)).contains(
                "route 10.42.2.0/24 via 10.42.2.0 dev knetd.1 onlink"))
    }
}
