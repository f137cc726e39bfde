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

    /// As in a cluster: an overlay's configuration, the service account in its place, TLS, the pod's capabilities; and the
    /// role allows what was asked.
    @Test(arguments: DeployFiles.names(in: "overlays")) func asDeployedNodesReachEachOther(overlay: String) throws {
        let file = URL(fileURLWithPath: "\(DeployFiles.folder)/overlays/\(overlay)/knetd.json")
        var configuration = try #require(JSONValue(parsing: Data(contentsOf: file)).object)
        let plugins = configuration["plugins"] ?? [:]
        // Servers that the overlay names are not in this network.
        configuration["cluster"] = ["kubernetes": [:]]
        let container = try #require(
            DeployFiles.base("DaemonSet").first?["spec"]?["template"]?["spec"]?["containers"]?.array?.first)
        let rights = (container["securityContext"]?["capabilities"]?["add"]?.array ?? []).compactMap(\.string)
            .map { ",+\($0.lowercased())" }.joined()
        let token = "a token of this cluster"
        // /run of its own, with the account where a kubelet puts it. /var/run leads there.
        let account = "/run/secrets/kubernetes.io/serviceaccount"
        let script = """
            mount -t tmpfs files /mnt && mkdir /mnt/run && mount --rbind /run /mnt/run && mount -t tmpfs run /run \
            && mkdir -p \(account) /run/knetd-playground \
            && mount --rbind /mnt/run/knetd-playground /run/knetd-playground \
            && printf '%s' "$TOKEN" > \(account)/token && printf '%s' "$AUTHORITY" > \(account)/ca.crt \
            && exec setpriv --bounding-set=-all\(rights) --no-new-privs "$@"
            """
        var server: PlaygroundServer?
        defer { server?.stop() }
        try withPlayground(
            nodes: 2, .object(configuration),
            daemon: [
                "KUBERNETES_SERVICE_HOST": PlaygroundServer.serviceAddress,
                "KUBERNETES_SERVICE_PORT": "\(PlaygroundServer.port)", "TOKEN": token,
                "AUTHORITY": TestCertificates.authority,
            ],
            wrapper: ["unshare", "--mount", "sh", "-c", script, "sh"],
            cluster: { playground in
                let lan = try playground.namespace("lan")
                _ = try shell("ip address add \(PlaygroundServer.serviceAddress)/32 dev lan", in: lan)
                let started = try PlaygroundServer(playground, tls: .forTests, tokens: [token])
                started.double.register(.clusterNetworkPolicies)
                try started.take(playground)
                try started.double.putMany(Self.apiService)
                server = started
                return configuration["cluster"] ?? [:]
            }
        ) { playground in
            let server = try #require(server)
            for node in playground.nodeNames { try playground.addPod("\(node)-a", node: node) }
            let mtu: [IPFamily: Int] = plugins["routed"] != nil ? [.v4: 1500, .v6: 1500] : [.v4: 1450, .v6: 1430]
            let report = try ConnectivityReport(playground, mtu: mtu)
            #expect(report.failures.isEmpty, "\(report.failures)")
            for name in playground.nodeNames {
                try eventually(within: 5) { server.node(name)?["status"]?["conditions"] != nil }
            }
            if plugins["serviceProxy"] != nil { try expectAService(playground, server) }
            if plugins["dns"] != nil {
                let answer = try shell(
                    "dig +short +tries=1 +time=3 @169.254.20.10 kubernetes.default.svc.cluster.local",
                    in: playground.namespace("node1-a"))
                #expect(answer == "\(PlaygroundServer.serviceAddress)\n")
            }
            if plugins["loadBalancer"] != nil {
                let spec: JSONValue = ["type": "LoadBalancer", "clusterIP": "10.96.9.9", "ports": [["port": 80]]]
                try server.double.put([
                    "apiVersion": "v1", "kind": "Service", "metadata": ["name": "balanced", "namespace": "default"],
                    "spec": spec,
                ])
                // An address, an event about it, and the Lease renewed.
                try eventually(within: 15) {
                    server.double.objects(.events).contains { $0["reason"] == "IPAllocated" }
                        && server.double.requests.contains { $0.verb == "update" && $0.resource == "leases" }
                }
            }
            let asked = server.double.requests.map {
                DeployFiles.Permission(
                    verb: $0.verb, group: $0.apiGroup,
                    resource: $0.subresource.isEmpty ? $0.resource : "\($0.resource)/\($0.subresource)")
            }
            let allowed = try DeployFiles.permissions(overlay)
            #expect(allowed.isSuperset(of: asked))
            // Lists are read where watches cannot begin with one, or have been cut.
            #expect(allowed.subtracting(asked).allSatisfy { $0.verb == "list" })
        }
    }

    /// The Service `kubernetes`, as every cluster has it.
    private static var apiService: [JSONValue] {
        let port = JSONValue.integer(Int(PlaygroundServer.port))
        return [
            [
                "kind": "Service", "apiVersion": "v1", "metadata": ["name": "kubernetes"],
                "spec": [
                    "clusterIP": .string(PlaygroundServer.serviceAddress), "ports": [["name": "https", "port": port]],
                ],
            ],
            [
                "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
                "metadata": ["name": "kubernetes", "labels": [EndpointSlice.serviceLabel: "kubernetes"]],
                "ports": [["name": "https", "port": port]], "endpoints": [["addresses": ["192.168.77.1"]]],
            ],
        ]
    }

    /// A Service that is put on the server leads to its endpoint, until it is deleted there.
    private func expectAService(_ playground: Playground, _ server: PlaygroundServer) throws {
        let stage = try ServiceStage(playground, servers: [("a", "node2")])
        defer { stage.stop() }
        let objects = try [ServiceStage.service("web", 2)] + stage.slices("web", [.init(pod: "a")])
        try server.double.putMany(objects)
        for family in IPFamily.allCases {
            try eventually(within: 4) {
                try stage.connect(from: "c1", to: 2, family).server == stage.address("a", family)
            }
        }
        server.double.delete(.services, namespace: "default", name: "web")
        for family in IPFamily.allCases {
            try eventually(within: 4) { try stage.connect(from: "c1", to: 2, family) == .silent }
        }
    }

    @Test func whatTheServerRefusesIsInStatusAndLogAndWhatIsKnownStaysInForce() throws {
        try withServer(nodes: 1) { playground, server in
            server.double.tokens = ["another"]
            server.stop()
            try server.start()
            try eventually(within: 15) {
                try playground.status(of: "node1")["source"]?["troubles"]?.text().contains("401") == true
            }
            let troubles = try playground.status(of: "node1")["source"]?["troubles"]?.array ?? []
            // Other kinds may still tell how their watch ended.
            let trouble = try #require(troubles.compactMap(\.string).first { $0.contains("401") })
            #expect(trouble.contains("token"), "\(trouble)")
            #expect(playground.log(of: "node1").contains("401"))
            #expect(try playground.status(of: "node1")["ready"] == true)
            server.double.tokens = nil
            try eventually(within: 15) { try metric("knetd_source_live", of: "node1", playground) == 1 }
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
            // A peer is one route, one neighbour, one FDB entry; and with `ebpf` one range in a map.
            let more = try metric("knetd_kernel_writes_total", of: "node1", playground) - writes
            #expect(more == (testedDataplane == "ebpf" ? 4 : 3), "\(more) kernel writes for one node more")
            print("from the snapshot: first pod attached after \(Int(seconds * 1000)) ms")
        }
    }
}
