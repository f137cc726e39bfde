import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

@testable import EBPFPlugin

/// What is the eBPF dataplane's own; what it has in common with the others is tested by their suites, over it.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct EBPFTests {
    private static func plugins(_ settings: JSONValue = [:], _ more: [String: JSONValue] = [:]) -> JSONValue {
        ["plugins": .object(["ebpf": settings].merging(more) { $1 })]
    }

    /// What `knetd bpf` tells.
    private static func bpf(_ node: String, _ playground: Playground) throws -> JSONValue {
        let outcome = try knetd(
            "bpf", "--json", "--config", playground.configurationPath(node), in: playground.namespace(node))
        try #require(outcome.status == 0, "\(outcome)")
        return try JSONValue(parsing: Data(outcome.output.utf8))
    }

    private static func packets(_ outcome: String, _ node: String, _ playground: Playground) throws -> Int {
        try bpf(node, playground)["packets"]?.array?.first { $0["outcome"]?.string == outcome }?["packets"]?.integer
            ?? -1
    }

    /// Devices of a node with a program of ours.
    private static func programs(_ node: String, _ playground: Playground) throws -> Int {
        try playground.namespace(node).run {
            let hooks = ProgramHooks(refused: [])
            return try NetlinkSocket().links().count { !hooks.attached(to: $0.index).isEmpty }
        }
    }

    @Test(arguments: [("vxlan", "tcx"), ("direct", "tcx"), ("vxlan", "clsact")])
    func packetsOfPodsGoPastTheStack(transport: String, hook: String) throws {
        try withPlayground(
            nodes: 2, Self.plugins(["transport": .string(transport)]),
            daemon: hook == "tcx" ? [:] : ["KNETD_BPF_REFUSE": "tcx"]
        ) { playground in
            try playground.addPod("a", node: "node1")
            let near = try playground.addPod("b", node: "node1")
            let far = try playground.addPod("c", node: "node2")
            let servers = try ["b", "c"].map { try EchoServer(in: playground.namespace($0)) }
            defer { for server in servers { server.stop() } }
            // Kernels before 6.6 have no tcx.
            let best = ProgramHooks(refused: []) == .tcx ? hook : "clsact"
            #expect(try Self.bpf("node1", playground)["mode"] == .string("past the host's stack, by \(best)"))
            let prober = Prober(try playground.namespace("a"))
            func expect(_ addresses: [IPAddress], _ outcome: String, _ node: String, packets: Int) throws {
                for address in addresses {
                    let before = try Self.packets(outcome, node, playground)
                    try prober.stream(address, bytes: 1 << 20)
                    let told = try Self.bpf(node, playground).text()
                    #expect(try Self.packets(outcome, node, playground) >= before + packets, "\(address): \(told)")
                    _ = try prober.ping(address)
                }
            }
            try expect(near, "to_pod", "node1", packets: 20)
            try expect(far, "to_node", "node1", packets: 10)
            try expect(far, "to_pod", "node2", packets: 10)
        }
    }

    @Test func whatTheKernelRefusesIsToldAndTheStackCarriesAll() throws {
        try withPlayground(nodes: 2, Self.plugins(), daemon: ["KNETD_BPF_REFUSE": "load"]) { playground in
            for pod in 1...4 { try playground.addPod("pod\(pod)", node: "node\((pod + 1) / 2)") }
            let report = try ConnectivityReport(playground, mtu: [.v4: 1450, .v6: 1430])
            #expect(report.failures.isEmpty, "\(report.text)")
            let answer = try Self.bpf("node1", playground)
            #expect(answer["mode"]?.string?.contains("refused") == true && answer["programs"] == [])
            let status = try knetd(
                "status", "--config", playground.configurationPath("node1"), in: playground.namespace("node1"))
            #expect(status.output.contains("go through the host's stack"), "\(status)")
            #expect(try metric("knetd_bpf_in_use", of: "node1", playground) == 0)
        }
    }

    @Test func fullMapsLeavePodsToTheStack() throws {
        try withPlayground(nodes: 1, Self.plugins(["endpoints": 16])) { playground in
            for pod in 1...10 { try playground.addPod("pod\(pod)", node: "node1") }
            let first = Prober(try playground.namespace("pod1"))
            for pod in 2...10 {
                for address in playground.addresses(of: "pod\(pod)") { _ = try first.ping(address) }
            }
            #expect(try metric("knetd_bpf_map_entries{map=\"knet_endpoints\"}", of: "node1", playground) == 16)
            #expect(try metric("knetd_bpf_map_capacity{map=\"knet_endpoints\"}", of: "node1", playground) == 16)
            let faults = try Self.bpf("node1", playground)["faults"]?.array ?? []
            #expect(faults.contains { $0.string?.contains("knet_endpoints") == true }, "\(faults)")
            // Those that go make room.
            for pod in 1...3 { try playground.deletePod("pod\(pod)") }
            try eventually(within: 5) {
                try metric("knetd_bpf_map_entries{map=\"knet_endpoints\"}", of: "node1", playground) == 14
            }
        }
    }

    /// What policies admit goes past the stack, once they were asked.
    @Test func whatPoliciesAdmitGoesPastTheStack() throws {
        try withPlayground(nodes: 2, Self.plugins([:], ["networkPolicy": [:]])) { playground in
            for (pod, node) in [("a", "node1"), ("b", "node1"), ("c", "node2")] {
                try playground.addPod(pod, node: node)
                let ips = playground.addresses(of: pod).map { "{ip: \"\($0)\"}" }.joined(separator: ", ")
                let object =
                    "{apiVersion: v1, kind: Pod, metadata: {name: \(pod), namespace: default}, "
                    + "spec: {nodeName: \(node)}, status: {podIPs: [\(ips)]}}"
                try Data(object.utf8).write(to: URL(fileURLWithPath: "\(playground.manifests)/\(pod).yaml"))
            }
            let servers = try ["b", "c"].map { try EchoServer(in: playground.namespace($0)) }
            defer { for server in servers { server.stop() } }
            let prober = Prober(try playground.namespace("a"))
            for (peer, outcome) in [("b", "to_pod"), ("c", "to_node")] {
                for address in playground.addresses(of: peer) {
                    let before = try Self.packets(outcome, "node1", playground)
                    // A short connection may be over before its answer comes.
                    try eventually(within: 5) {
                        try prober.stream(address, bytes: 1 << 20)
                        return try Self.packets(outcome, "node1", playground) >= before + 10
                    }
                }
            }
            // The receiver's node asks too.
            #expect(try Self.packets("to_pod", "node2", playground) >= 10)
            #expect(try metric("knetd_bpf_map_entries{map=\"knet_verdicts\"}", of: "node1", playground) > 0)
            // A policy that denies: the rules in the stack do it and tell.
            let denial = "\(playground.manifests)/denial.yaml"
            try Data(Self.denial.utf8).write(to: URL(fileURLWithPath: denial))
            try eventually(within: 5) {
                playground.addresses(of: "b").allSatisfy { !Self.connects(prober, $0) }
            }
            for address in playground.addresses(of: "c") { try prober.stream(address, bytes: 1 << 16) }
            unlink(denial)
            try eventually(within: 5) { playground.addresses(of: "b").allSatisfy { Self.connects(prober, $0) } }
        }
    }

    /// Nobody reaches b.
    private static let denial = """
        apiVersion: networking.k8s.io/v1
        kind: NetworkPolicy
        metadata: {name: nobody, namespace: default}
        spec: {podSelector: {matchExpressions: [{key: never, operator: DoesNotExist}]}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.42.2.0/24}}, {ipBlock: {cidr: "fd42:0:0:2::/64"}}]}]}
        """

    private static func connects(_ prober: Prober, _ address: IPAddress) -> Bool {
        (try? prober.stream(address, bytes: 1)) != nil
    }

    @Test func whereEachPacketIsLookedAtTheStackHasAll() throws {
        let cut: JSONValue = ["existingConnections": "cut"]
        try withPlayground(nodes: 1, Self.plugins([:], ["networkPolicy": cut])) { playground in
            try playground.addPod("a", node: "node1")
            let answer = try Self.bpf("node1", playground)
            #expect(answer["mode"]?.string?.contains("existingConnections") == true)
            #expect(answer["programs"]?.array?.allSatisfy { $0["links"] == [] } == true, "\(answer)")
        }
    }

    /// Flows go on while the programs come and go.
    @Test func anotherDataplaneTakesTheProgramsAway() throws {
        try withPlayground(nodes: 2, Self.plugins()) { playground in
            try playground.addPod("a", node: "node1")
            let peer = try playground.addPod("b", node: "node2")
            let server = try EchoServer(in: playground.namespace("b"))
            defer { server.stop() }
            let node = try playground.namespace("node1")
            let prober = Prober(try playground.namespace("a"))
            for _ in 0..<2 {
                for address in peer { try prober.stream(address, bytes: 1 << 16) }
                #expect(try Self.packets("to_node", "node1", playground) > 0)
                try configure("node1", ["overlay": [:]], playground)
                try eventually(within: 5) { try Self.programs("node1", playground) == 0 }
                for address in peer { try prober.stream(address, bytes: 1 << 16) }
                try configure("node1", ["ebpf": [:]], playground)
                // The pod's link, and a VXLAN device of each family.
                try eventually(within: 5) { try Self.programs("node1", playground) == 3 }
            }
            let path = playground.configurationPath("node1")
            try playground.stopDaemon("node1")
            #expect(try Self.programs("node1", playground) == 3, "they work on without the daemon")
            for address in peer { try prober.stream(address, bytes: 1 << 16) }
            #expect(try knetd("cleanup", "--config", path, in: node).status == 0)
            #expect(try Self.programs("node1", playground) == 0)
        }
    }
}
