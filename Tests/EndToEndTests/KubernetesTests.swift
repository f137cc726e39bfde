import APIDouble
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Nodes that know the cluster from an API server, which stands in the network between them.
@Suite(.enabled(if: Root.isAvailable)) struct KubernetesTests {
    private func withServer<Result>(
        _ plugin: String = "overlay", nodes: Int = 2, _ body: (Playground, PlaygroundServer) throws -> Result
    ) throws -> Result {
        var server: PlaygroundServer?
        defer { server?.stop() }
        return try withPlayground(
            nodes: nodes, ["plugins": .object([plugin: [:]]), "agent": ["resyncSeconds": 3600]],
            cluster: { playground in
                let started = try PlaygroundServer(playground)
                try started.take(playground)
                server = started
                let path = try started.writeKubeconfig(playground)
                return ["kubernetes": ["kubeconfig": .string(path), "snapshotSeconds": 1]]
            }
        ) { playground in try body(playground, try #require(server)) }
    }

    /// The demo: every pair of pods, both families, with both dataplanes.
    @Test(arguments: ["overlay", "routed"]) func nodesThatKnowOnlyTheAPIReachEachOther(plugin: String) throws {
        try withServer(plugin) { playground, server in
            for node in playground.nodeNames { try playground.addPod("\(node)-a", node: node) }
            let mtu: [IPFamily: Int] = plugin == "overlay" ? [.v4: 1450, .v6: 1430] : [.v4: 1500, .v6: 1500]
            let report = try ConnectivityReport(playground, mtu: mtu)
            #expect(report.failures.isEmpty, "\(report.failures)")
            for name in playground.nodeNames {
                try eventually(within: 5) { server.node(name)?["status"]?["conditions"] != nil }
                let node = try #require(server.node(name))
                let annotations = node["metadata"]?["annotations"]
                let prefix = "flannel.alpha.coreos.com/"
                #expect(annotations?["\(prefix)backend-type"]?.string == (plugin == "overlay" ? "vxlan" : "host-gw"))
                #expect(annotations?["\(prefix)public-ip"]?.string == playground.address(of: name, .v4)?.description)
                let condition = node["status"]?["conditions"]?.array?.first
                #expect(condition?["type"] == "NetworkUnavailable" && condition?["status"] == "False")
                #expect(condition?["reason"] == "KnetdIsUp" && condition?["lastTransitionTime"] != nil)
            }
            // Each Node was written by its own node, and not again and again.
            let writes = server.double.requests.filter { $0.verb == "patch" }
            #expect(writes.allSatisfy { $0.resource == "nodes" && $0.subresource == "status" && $0.code == 200 })
            #expect(writes.count <= 2 * playground.nodeNames.count, "\(writes.map(\.body))")
        }
    }

    @Test func aNodeThatBootsWithoutTheAPIServerServesFromTheSnapshot() throws {
        try withServer { playground, server in
            try playground.addPod("b", node: "node2")
            let snapshot = "\(playground.directory)/node1/state/cluster.snapshot"
            try eventually(within: 10) { FileManager.default.fileExists(atPath: snapshot) }
            try eventually(within: 10) { server.node("node1")?["status"]?["conditions"] != nil }
            usleep(1_500_000)
            try playground.stopDaemon("node1")
            server.stop()
            try forgetBoot(of: "node1", playground)
            let boot = "\(playground.directory)/boot_id"
            try Data("another boot\n".utf8).write(to: URL(fileURLWithPath: boot))

            let began = ContinuousClock.now
            try start("node1", boot: boot, playground)
            try playground.addPod("a", node: "node1")
            let seconds = (ContinuousClock.now - began) / .seconds(1)
            #expect(seconds < 2, "attached after \(seconds) s")
            for address in playground.addresses(of: "b") {
                _ = try Prober(playground.namespace("a")).ping(address)
            }
            let status = try playground.status(of: "node1")
            #expect(status["source"]?["isFromSnapshot"] == true && status["source"]?["isLive"] == false)
            try eventually(within: 10) {
                try playground.status(of: "node1")["source"]?["troubles"]?.array?.first?.string?
                    .contains("cannot be reached") == true
            }
            #expect(try metric("knetd_source_snapshot", of: "node1", playground) == 1)

            // What happened meanwhile is taken up, and nothing else is touched.
            let writes = try metric("knetd_kernel_writes_total", of: "node1", playground)
            try server.double.put([
                "apiVersion": "v1", "kind": "Node", "metadata": ["name": "node9"],
                "spec": ["podCIDRs": ["10.42.9.0/24"]],
                "status": ["addresses": [["type": "InternalIP", "address": "192.168.77.99"]]],
            ])
            try server.start()
            try eventually(within: 20) { try metric("knetd_source_live", of: "node1", playground) == 1 }
            try eventually(within: 5) {
                try shell("ip route show proto 107", in: playground.namespace("node1")).contains("10.42.9.0/24")
            }
            // A peer is one route, one neighbour, one FDB entry.
            let more = try metric("knetd_kernel_writes_total", of: "node1", playground) - writes
            #expect(more == 3, "\(more) kernel writes for one node more")
            print("from the snapshot: first pod attached after \(Int(seconds * 1000)) ms")
        }
    }
}
