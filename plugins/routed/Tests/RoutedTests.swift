import KnetCore
import KnetDataplane
import RoutedPlugin
import Testing

@Suite struct RoutedTests {
    private let routed = Routed()

    private func local(_ families: [IPFamily]) -> LocalNode {
        let uplinks = [IPFamily.v4: "192.168.1.1/24", .v6: "fd01::1/64"].filter { families.contains($0.key) }
        return LocalNode(
            name: "self", podCIDRs: ["10.42.1.0/24", "fd42:0:0:1::/64"].compactMap { CIDR($0) },
            uplinks: uplinks.compactMapValues { text in
                let parts = text.split(separator: "/")
                guard let address = IPAddress(parts[0]), let length = Int(parts[1]) else { return nil }
                return LocalNode.Uplink(
                    link: "eth0", address: address, subnet: CIDR(containing: address, prefixLength: length), mtu: 1500)
            })
    }

    private func peer(_ addresses: String...) -> Node {
        Node(
            name: "peer", podCIDRs: ["10.42.2.0/24", "fd42:0:0:2::/64"].compactMap { CIDR($0) },
            addresses: addresses.compactMap { IPAddress($0) })
    }

    @Test func aPeerCostsOneRouteInEachFamily() throws {
        let entries = try routed.entries(peer: peer("192.168.1.2", "fd01::2"), local: local([.v4, .v6]))
        #expect(
            entries.map(\.description) == [
                "route 10.42.2.0/24 via 192.168.1.2 dev eth0", "route fd42:0:0:2::/64 via fd01::2 dev eth0",
            ])
        #expect(routed.mtu(.v6, local: local([.v4])) == 1500)
    }

    @Test func aPeerOnAnotherSubnetIsUnreachableAndSaysWhy() throws {
        let error = try #require(throws: PartlyDesired<NetworkEntry>.self) {
            try routed.entries(peer: peer("192.168.9.2", "fd01::2"), local: local([.v4, .v6]))
        }
        #expect(error.reason.contains("not on this node's subnet 192.168.1.0/24"))
        #expect(error.reason.contains("overlay"))
        // The other family's route is wanted all the same.
        #expect(error.entries.map(\.description) == ["route fd42:0:0:2::/64 via fd01::2 dev eth0"])
    }

    @Test func aFamilyWithoutUplinkIsNamed() throws {
        let error = try #require(throws: PartlyDesired<NetworkEntry>.self) {
            try routed.entries(peer: peer("192.168.1.2", "fd01::2"), local: local([.v4]))
        }
        #expect(error.reason.contains("no IPv6 uplink"))
    }
}
