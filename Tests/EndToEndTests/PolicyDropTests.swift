import FoundationEssentials
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Dropped packets are told with both pods and what dropped them.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct PolicyDropTests {
    /// Why packets are dropped from one pod to another.
    private struct Reason {
        let source: String
        let destination: String
        /// Of the daemon that drops them.
        let node: String
        let direction: String
        let policies: [String]
        /// `nil` where none of the policies admits it.
        let rule: String?
        let firstPort: Int
    }

    private static let policies = PolicyCase(
        "drops",
        """
        x/one: {podSelector: $a, policyTypes: [Ingress]}
        x/two-1: {podSelector: $b, policyTypes: [Ingress]}
        x/two-2: {podSelector: $b, ingress: [{from: [{podSelector: $a}], ports: [{port: 80}]}]}
        x/out: {podSelector: $c, policyTypes: [Egress], egress: [{to: [{namespaceSelector: $y}]}]}
        fence: {tier: Admin, priority: 5, subject: {pods: {namespaceSelector: $y, podSelector: $a}},
          ingress: [{name: first, action: Pass, from: [{namespaces: $x}]},
            {name: no-visitors, action: Deny, from: [{namespaces: $z}]}]}
        ground: {tier: Baseline, priority: 5, subject: {pods: {namespaceSelector: $y, podSelector: $b}},
          ingress: [{action: Deny, from: [{namespaces: $z}]}]}
        """)

    private static let reasons = [
        Reason(
            source: "z/b", destination: "x/a", node: "node1", direction: "ingress", policies: ["x/one"], rule: nil,
            firstPort: 7_100),
        Reason(
            source: "z/a", destination: "x/b", node: "node2", direction: "ingress", policies: ["x/two-1", "x/two-2"],
            rule: nil, firstPort: 7_200),
        Reason(
            source: "x/c", destination: "z/b", node: "node1", direction: "egress", policies: ["x/out"], rule: nil,
            firstPort: 7_300),
        Reason(
            source: "z/b", destination: "y/a", node: "node2", direction: "ingress", policies: ["fence"],
            rule: "no-visitors", firstPort: 7_400),
        Reason(
            source: "z/c", destination: "y/b", node: "node1", direction: "ingress", policies: ["ground"],
            rule: "ingress[0]", firstPort: 7_500),
    ]

    /// Of each reason; one port for each.
    private static let packets = 20

    private func transport(_ packet: Int) -> PolicyFlow.Transport { packet / 2 % 2 == 0 ? .udp : .tcp }
    private func family(_ packet: Int) -> IPFamily { packet % 2 == 0 ? .v4 : .v6 }

    /// All that a node told of packets to the reason's ports.
    private func drops(_ reason: Reason, _ playground: Playground) throws -> [JSONValue] {
        let outcome = try knetd("policy", "drops", "--json", "--config", playground.configurationPath(reason.node))
        guard outcome.status == 0 else { throw Playground.Failure(outcome.errors) }
        return try outcome.output.split(separator: "\n").map { try JSONValue(parsing: Data($0.utf8)) }.filter {
            (reason.firstPort..<reason.firstPort + Self.packets).contains($0["port"]?.integer ?? 0)
        }
    }

    @Test func eachDroppedPacketIsToldWithItsPodsAndThePoliciesThatDroppedIt() throws {
        try PolicyStage.with(["loggedDropsPerSecond": 1000]) { stage in
            let playground = stage.playground
            if let mismatch = try stage.mismatch(try Self.policies.world(stage.world)) {
                throw Playground.Failure("\(mismatch)")
            }
            for reason in Self.reasons {
                let namespace = try playground.namespace(reason.source)
                for packet in 0..<Self.packets {
                    let target = try #require(stage.world.address(of: reason.destination, family(packet)))
                    try PolicyProbe.knock(
                        from: namespace, to: target, port: UInt16(reason.firstPort + packet), transport(packet))
                }
            }
            var checked = 0
            for reason in Self.reasons {
                var told: [JSONValue] = []
                try eventually(within: 3) {
                    told = try drops(reason, playground)
                    return told.count >= Self.packets
                }
                #expect(told.count == Self.packets, "\(reason)")
                for drop in told { expect(drop, reason, stage) }
                checked += Set(told.map { $0["port"]?.integer ?? 0 }).count
            }
            #expect(checked == Self.reasons.count * Self.packets)
            print("\(checked) dropped packets, each told with its pods and policies")
        }
    }

    private func expect(_ drop: JSONValue, _ reason: Reason, _ stage: PolicyStage) {
        let packet = (drop["port"]?.integer ?? 0) - reason.firstPort
        let ends = [reason.source, reason.destination].map {
            stage.world.address(of: $0, family(packet)).map { "\($0)" }
        }
        let addresses = [drop["source"]?.string, drop["destination"]?.string]
        #expect(addresses == ends, "\(drop.text())")
        let pods = [drop["sourcePod"]?.string, drop["destinationPod"]?.string]
        #expect(pods == [reason.source, reason.destination], "\(drop.text())")
        #expect(drop["protocol"]?.string == transport(packet).rawValue.lowercased(), "\(drop.text())")
        #expect(drop["direction"]?.string == reason.direction, "\(drop.text())")
        let policies = (drop["policies"]?.array ?? []).compactMap(\.string)
        #expect(policies == reason.policies, "\(drop.text())")
        #expect(drop["rule"]?.string == reason.rule, "\(drop.text())")
    }
}
