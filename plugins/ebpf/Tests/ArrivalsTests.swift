import HashTreeCollections
import KnetCore
import Testing

@testable import EBPFPlugin

/// Which devices get a program, whatever is told first.
struct ArrivalsTests {
    private static func dataplane(_ settings: JSONValue) throws -> EBPF {
        var problems: [ConfigurationProblem] = []
        let all = Shape.object(EBPF.settings.fields).normalise(settings, path: "$", problems: &problems)
        #expect(problems.isEmpty)
        return try EBPF(all)
    }

    private static let local = LocalNode(
        name: "self", podCIDRs: [CIDR(containing: .v4(0x0A2A_0100), prefixLength: 24)],
        uplinks: [
            .v4: .init(
                link: "eth0", address: .v4(0xC0A8_0101), subnet: CIDR(containing: .v4(0xC0A8_0101), prefixLength: 24),
                mtu: 1500)
        ])

    private static func node(_ number: UInt32, address: UInt32) -> Node {
        Node(
            name: "node\(number)", podCIDRs: [CIDR(containing: .v4(0x0A2A_0000 + number << 8), prefixLength: 24)],
            addresses: [.v4(address)], annotations: [:])
    }

    private static let cases: [(settings: JSONValue, withNear: [String], withFar: [String])] = [
        (["transport": "vxlan"], ["knetd.1"], ["knetd.1"]),
        (["transport": "vxlan", "directRouting": true], ["eth0", "knetd.1"], ["knetd.1"]),
        (["transport": "direct"], ["eth0"], []),
    ]

    @Test(arguments: cases) func theDevicesFollowTheNodes(settings: JSONValue, withNear: [String], withFar: [String])
        throws
    {
        let dataplane = try Self.dataplane(settings)
        var arrivals = Arrivals()
        var state = ClusterState()
        func tell(_ keys: Set<ObjectKey>, _ change: (inout ClusterState) -> Void = { _ in }) -> Bool {
            change(&state)
            return arrivals.follow(keys, in: state, dataplane)
        }
        // On this node's subnet, and beyond it.
        let (near, other) = (Self.node(2, address: 0xC0A8_0102), Self.node(3, address: 0xC0A8_0103))
        let far = Self.node(4, address: 0xC0A8_0904)
        #expect(!tell([near.key]) { $0.set(.node(near)) })
        #expect(tell([.local]) { $0.set(local: Self.local) })
        #expect(arrivals.links == Set(withNear))
        #expect(!tell([other.key]) { $0.set(.node(other)) })
        #expect(!tell([near.key]) { $0.remove(near.key) })
        #expect(arrivals.links == Set(withNear), "the other node is still there")
        _ = tell([far.key, other.key]) {
            $0.set(.node(far))
            $0.remove(other.key)
        }
        #expect(arrivals.links == Set(withFar))
    }
}
