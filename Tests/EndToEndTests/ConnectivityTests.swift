import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

@Suite(.serialized, .enabled(if: Root.isAvailable)) struct ConnectivityTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let name: String
        let configuration: JSONValue
        var lan = IPFamily.allCases
        let mtu: [IPFamily: Int]
        var testDescription: String { name }
    }

    static let cases = [
        Case(name: "overlay, dual stack", configuration: ["plugins": ["overlay": [:]]], mtu: [.v4: 1450, .v6: 1430]),
        Case(name: "routed, dual stack", configuration: ["plugins": ["routed": [:]]], mtu: [.v4: 1500, .v6: 1500]),
        Case(name: "ebpf, dual stack", configuration: ["plugins": ["ebpf": [:]]], mtu: [.v4: 1450, .v6: 1430]),
        Case(
            name: "ebpf with direct routes", configuration: ["plugins": ["ebpf": ["transport": "direct"]]],
            mtu: [.v4: 1500, .v6: 1500]),
        Case(
            name: "overlay, IPv4 alone", configuration: ["network": ["podCIDRs": ["10.42.0.0/16"]]], lan: [.v4],
            mtu: [.v4: 1450]),
        Case(
            name: "overlay, IPv6 alone", configuration: ["network": ["podCIDRs": ["fd42::/48"]]], lan: [.v6],
            mtu: [.v6: 1430]),
        Case(
            name: "routed, IPv6 alone",
            configuration: ["network": ["podCIDRs": ["fd42::/48"]], "plugins": ["routed": [:]]], lan: [.v6],
            mtu: [.v6: 1500]),
        Case(
            name: "overlay with direct routing",
            configuration: ["plugins": ["overlay": ["directRouting": true]], "network": ["mtu": 1400]],
            mtu: [.v4: 1400, .v6: 1400]),
    ]

    @Test(arguments: cases)
    func everyPodReachesEveryOtherAndTheOutside(_ tried: Case) throws {
        try withPlayground(nodes: 3, tried.configuration, families: tried.lan) { playground in
            for pod in 1...4 { try playground.addPod("pod\(pod)", node: "node\((pod + 1) / 2 + (pod == 4 ? 1 : 0))") }
            let report = try ConnectivityReport(playground, mtu: tried.mtu)
            #expect(report.failures.isEmpty, "\(report.failures.joined(separator: "\n"))\n\(report.text)")
            #expect(report.rows.count == 4 * tried.mtu.count)
            #expect(report.rows.allSatisfy { $0.peers == 3 && $0.outside })
        }
    }

    @Test func dualStackPodsAreCarriedByNodesOfOneFamily() throws {
        try withPlayground(nodes: 2, families: [.v4]) { playground in
            try playground.addPod("a", node: "node1")
            let peer = try playground.addPod("b", node: "node2")
            let prober = Prober(try playground.namespace("a"))
            let server = try EchoServer(in: playground.namespace("b"))
            defer { server.stop() }
            #expect(peer.map(\.family) == [.v4, .v6])
            for address in peer {
                try prober.stream(address, bytes: 1 << 16)
                try prober.pathMTU(address, is: 1450)
            }
        }
    }

    @Test func withoutMasqueradeTheOutsideIsNotReached() throws {
        try withPlayground(["network": ["masquerade": false]]) { playground in
            try playground.addPod("a", node: "node1")
            let server = try EchoServer(in: playground.namespace("outside"))
            defer { server.stop() }
            let outside = try #require(playground.outsideAddress(.v4))
            #expect(throws: SystemError.self) {
                try Prober(playground.namespace("a"), milliseconds: 300).stream(outside, bytes: 8)
            }
        }
    }

    @Test func anAddressOfOursThatNoPodHasIsUnreachableAtOnce() throws {
        try withPlayground(nodes: 2) { playground in
            try playground.addPod("a", node: "node1")
            let prober = Prober(try playground.namespace("a"))
            for text in ["10.42.1.200", "10.42.2.200", "fd42:0:0:1::200", "fd42:0:0:2::200"] {
                let address = try #require(IPAddress(text))
                let start = ContinuousClock.now
                let error = try #require(throws: SystemError.self) { try prober.datagram(address, bytes: 8) }
                #expect(ContinuousClock.now - start < .seconds(1), "\(text): \(error)")
            }
        }
    }

    @Test func nodeAndPodReachEachOther() throws {
        try withPlayground { playground in
            let pod = try playground.addPod("a", node: "node1")
            for address in pod { try Prober(playground.namespace("node1")).ping(address) }
            for family in IPFamily.allCases {
                try Prober(playground.namespace("a")).ping(#require(playground.address(of: "node1", family)))
            }
        }
    }
}
