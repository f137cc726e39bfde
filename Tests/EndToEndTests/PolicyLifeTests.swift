import APIDouble
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Policies while the daemon, the API server and the rules themselves are taken away.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct PolicyLifeTests {
    private static let policies = PolicyCase(
        "life",
        """
        x/deny: {podSelector: {}, policyTypes: [Ingress]}
        x/allow: {podSelector: {}, ingress: [{from: [{namespaceSelector: $y}]}]}
        fence: {tier: Admin, priority: 5, subject: {namespaces: $y}, ingress: [{action: Deny, from: [{namespaces: $z}]}]}
        """)

    /// From each node to each node, by a NetworkPolicy and by a ClusterNetworkPolicy.
    private static let forbidden = [
        ("z/a", "x/a"), ("z/b", "x/a"), ("z/c", "x/b"), ("z/b", "x/b"), ("z/a", "y/b"), ("z/b", "y/b"),
    ]
    private static let allowed = [("y/a", "x/a"), ("y/b", "x/a"), ("y/b", "x/b")]

    /// Who may not come and who may, both without pause.
    private final class Traffic {
        private let knockers: [PolicyKnocker]
        private let visitors: [PolicyVisitor]

        init(_ stage: PolicyStage) throws {
            knockers = try PolicyLifeTests.forbidden.map { try PolicyKnocker(from: $0.0, to: $0.1, stage) }
            visitors = try PolicyLifeTests.allowed.map { try PolicyVisitor(from: $0.0, to: $0.1, stage) }
        }

        /// Looks for so long, and checks that visitors go on and that nobody else arrives.
        func expectAllIsWell(_ when: String, milliseconds: UInt32 = 300) {
            let before = visitors.map(\.count)
            usleep(milliseconds * 1_000)
            let after = visitors.map(\.count)
            #expect(zip(before, after).allSatisfy { $0 < $1 }, "\(when): \(before), then \(after) visits")
            let failures = visitors.flatMap(\.failures)
            #expect(failures == [], "\(when)")
            let arrived = knockers.map(\.arrived)
            #expect(arrived.allSatisfy { $0.isEmpty }, "\(when): \(arrived) of \(PolicyLifeTests.forbidden)")
        }

        /// That what was forbidden would have been seen.
        func expectEverybody() throws {
            try eventually(within: 20) { knockers.allSatisfy { $0.arrived.count == 8 } }
        }

        func stop() {
            for visitor in visitors { visitor.stop() }
            for knocker in knockers { knocker.stop() }
        }
    }

    private func expectInForce(_ world: PolicyWorld, _ stage: PolicyStage) throws {
        if let mismatch = try stage.mismatch(world) { throw Playground.Failure("\(mismatch)") }
    }

    /// Starts it and waits until it has had its time to write what it would.
    private func start(_ node: String, _ stage: PolicyStage) throws {
        try stage.playground.startDaemon(node)
        try stage.playground.waitUntilReady(node)
        usleep(300_000)
        let writes = try metric("knetd_kernel_writes_total", of: node, stage.playground)
        #expect(writes == 0, "\(node): \(stage.playground.log(of: node))")
    }

    @Test func theDaemonsEndAndReturnIsNotNoticedAndWritesNothing() throws {
        try PolicyStage.with { stage in
            try expectInForce(Self.policies.world(stage.world), stage)
            let traffic = try Traffic(stage)
            defer { traffic.stop() }
            traffic.expectAllIsWell("before")
            for signal in [SIGTERM, SIGKILL] {
                for node in stage.playground.nodeNames {
                    try stage.playground.stopDaemon(node, signal: signal)
                    traffic.expectAllIsWell("\(node) has ended by signal \(signal)")
                    try start(node, stage)
                    traffic.expectAllIsWell("\(node) is back after signal \(signal)")
                }
            }
            for node in stage.playground.nodeNames { try stage.playground.stopDaemon(node, signal: SIGKILL) }
            traffic.expectAllIsWell("all were killed")
            for node in stage.playground.nodeNames { try start(node, stage) }
            traffic.expectAllIsWell("all are back")
            try stage.apply(stage.world)
            try traffic.expectEverybody()
        }
    }

    @Test func withoutTheAPIServerPoliciesStayInForceAlsoAfterARestart() throws {
        let server = PolicyServer()
        defer { server.stop() }
        try PolicyStage.with(server: server) { stage in
            try expectInForce(Self.policies.world(stage.world), stage)
            let traffic = try Traffic(stage)
            defer { traffic.stop() }
            // Until it is in the snapshot.
            traffic.expectAllIsWell("before", milliseconds: 2_500)
            server.stop()
            traffic.expectAllIsWell("the API server is gone", milliseconds: 1_000)
            for node in stage.playground.nodeNames {
                try stage.playground.stopDaemon(node, signal: SIGKILL)
                traffic.expectAllIsWell("\(node) was killed without the API server")
                try start(node, stage)
                let source = try stage.playground.status(of: node)["source"]
                #expect(source?["isFromSnapshot"] == true && source?["isLive"] == false)
                traffic.expectAllIsWell("\(node) is back from the snapshot")
            }
            try server.restart()
            for node in stage.playground.nodeNames {
                try eventually(within: 20) { try metric("knetd_source_live", of: node, stage.playground) == 1 }
            }
            traffic.expectAllIsWell("the API server is back", milliseconds: 1_000)
            for name in ["deny", "allow"] { try server.delete(.networkPolicies, namespace: "x", name: name) }
            try server.delete(.clusterNetworkPolicies, name: "fence")
            try traffic.expectEverybody()
        }
    }

    // MARK: By hand

    private static let table = "inet knetd_policy"

    /// The parts of a table in no particular order; counters' values are left out.
    private func parts(of table: String, on node: String, _ stage: PolicyStage) throws -> [String] {
        try shell("nft -s list table \(table)", in: stage.playground.namespace(node)).split { "\n\t,".contains($0) }
            .map {
                $0.split(separator: " ").filter { !["elements", "=", "{", "}"].contains($0) }.joined(separator: " ")
            }
            .filter { !$0.isEmpty }.sorted()
    }

    /// Names of the table's objects of a kind: the words after `chain` or `set`.
    private func names(of kind: String, _ prefix: String, on node: String, _ stage: PolicyStage) throws -> [String] {
        let text = try shell("nft list table \(Self.table)", in: stage.playground.namespace(node))
        return text.split(separator: "\n").compactMap { line -> String? in
            let words = line.split { " \t".contains($0) }
            guard words.count == 3, words[0] == kind, words[1].hasPrefix(prefix) else { return nil }
            return String(words[1])
        }
    }

    /// What somebody might do to our table on the first node.
    private func accidents(_ stage: PolicyStage) throws -> [String] {
        let node = try stage.playground.namespace("node1")
        let chains = try names(of: "chain", "pod_ingress_", on: "node1", stage)
        let chain = try #require(chains.first)
        let address = try #require(stage.world.address(of: "y/b", .v4))
        let text = "\(address)"
        let sets = try names(of: "set", "pods_", on: "node1", stage).filter { name in
            let words = try shell("nft list set \(Self.table) \(name)", in: node).split { " ,\t\n".contains($0) }
            return words.contains { $0 == text }
        }
        let set = try #require(sets.first)
        return [
            "flush table \(Self.table)", "delete table \(Self.table)", "flush chain \(Self.table) \(chain)",
            "insert rule \(Self.table) \(chain) accept", "add element \(Self.table) \(set) { 10.42.1.250 }",
            "delete element \(Self.table) \(set) { \(address) }",
        ]
    }

    /// The next pod with its address must not inherit what was let go on.
    @Test func connectionsOfAPodThatWentAreForgotten() throws {
        try withPlayground(nodes: 1, ["plugins": ["overlay": [:], "networkPolicy": [:]]]) { playground in
            try playground.addPod("a", node: "node1")
            let (gone, staying) = (
                try playground.addPod("b", node: "node1"), try playground.addPod("c", node: "node1")
            )
            let servers = try ["b", "c"].map { try EchoServer(in: playground.namespace($0)) }
            defer { for server in servers { server.stop() } }
            let prober = Prober(try playground.namespace("a"))
            for address in gone + staying {
                try prober.stream(address, bytes: 1_000)
                try prober.datagram(address, bytes: 100)
            }
            let node = try playground.namespace("node1")
            func tracked() throws -> Set<IPAddress> {
                let table = try shell("cat /proc/net/nf_conntrack", in: node)
                return Set(table.matches(of: #/(?:src|dst)=([0-9a-f.:]+)/#).compactMap { IPAddress($0.output.1) })
            }
            #expect(try tracked().isSuperset(of: gone + staying))
            try playground.deletePod("b")
            try eventually(within: 2) { try tracked().isDisjoint(with: gone) }
            #expect(try tracked().isSuperset(of: staying))
        }
    }

    @Test func whatSomebodyChangesByHandIsRepairedAndCleanupTakesOursAlone() throws {
        try PolicyStage.with { stage in
            let world = try Self.policies.world(stage.world)
            try expectInForce(world, stage)
            let node = try stage.playground.namespace("node1")
            _ = try shell(
                """
                nft -f - <<'END'
                table inet somebody {
                    set pods_1_4 { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 } }
                    counter passed { }
                    chain forward {
                        type filter hook forward priority 5; policy accept;
                        ip daddr @pods_1_4 counter name passed
                    }
                }
                END
                """, in: node)
            let theirs = try shell("nft list table inet somebody", in: node)
            let before = try parts(of: Self.table, on: "node1", stage)
            for command in try accidents(stage) {
                _ = try shell("nft '\(command)'", in: node)
                let milliseconds = try eventually(within: 1) {
                    (try? parts(of: Self.table, on: "node1", stage)) == before
                }
                print("repaired after \(milliseconds) ms: \(command)")
                if let after = try? parts(of: Self.table, on: "node1", stage) {
                    let difference = after.difference(from: before)
                    #expect(difference.isEmpty, "\(command)")
                }
                try expectInForce(world, stage)
                let now = try shell("nft list table inet somebody", in: node)
                #expect(now == theirs)
            }
            try stage.playground.stopDaemon("node1")
            let done = try knetd("cleanup", "--config", stage.playground.configurationPath("node1"), in: node)
            #expect(done.status == 0, "\(done.errors)")
            let tables = try shell("nft list tables", in: node)
            #expect(!tables.contains("knetd_policy"))
            let left = try shell("nft list table inet somebody", in: node)
            #expect(left == theirs)
        }
    }
}
