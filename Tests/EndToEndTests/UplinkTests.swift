import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// What happens to the uplink, to the kernel's notifications, and to a daemon with few rights.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct UplinkTests {
    /// The playground sets up what a network manager would.
    private func configureUplink(_ node: NetworkNamespace) throws {
        _ = try shell(
            """
            ip link set eth0 up; ip addr replace 192.168.77.11/24 dev eth0; ip -6 addr replace fd77::b/64 dev eth0 nodad
            ip route replace default via 192.168.77.1 proto static; ip -6 route replace default via fd77::1 proto static
            """, in: node)
    }

    @Test(arguments: ["overlay", "routed", "ebpf"]) func aFlappingUplinkKeepsConnections(plugin: String) throws {
        try withPlayground(nodes: 2, ["plugins": [plugin: [:]]]) { playground in
            try playground.addPod("a", node: "node1")
            let peer = try playground.addPod("b", node: "node2")
            let server = try EchoServer(in: playground.namespace("b"))
            defer { server.stop() }
            let (pod, node) = (try playground.namespace("a"), try playground.namespace("node1"))
            let streams = try peer.map { try StreamClient(to: $0, in: pod, milliseconds: 5000) }
            for stream in streams { try stream.exchange(bytes: 1000) }
            for pause: UInt32 in [0, 50_000, 400_000] {
                _ = try shell("ip link set eth0 down", in: node)
                usleep(pause)
                try configureUplink(node)
                try eventually { peer.allSatisfy { (try? Prober(pod, milliseconds: 200).ping($0)) != nil } }
                for stream in streams { try stream.exchange(bytes: 1000) }
            }
            try eventually { try playground.status(of: "node1")["plugins"]?.array?.first?["faults"] == [] }
        }
    }

    @Test func withoutAnyUplinkWhatRestsOnTheLastOneStays() throws {
        try withPlayground(nodes: 2) { playground in
            let node = try playground.namespace("node1")
            let held = {
                try shell("ip route show proto 107; ip -6 route show proto 107; ip -o link show type vxlan", in: node)
            }
            let before = try held()
            _ = try shell("ip addr flush dev eth0 scope global", in: node)
            try eventually {
                try playground.status(of: "node1")["uplinks"]?.array?.map { $0["isPresent"] ?? .null } == [
                    false, false,
                ]
            }
            #expect(try held() == before)
            #expect(try CNIRun(playground: playground)("STATUS").status == 0, "pods of one node need no uplink")
            try configureUplink(node)
            try eventually {
                try playground.status(of: "node1")["uplinks"]?.array?.map { $0["isPresent"] ?? .null } == [true, true]
            }
            #expect(try held() == before)
        }
    }

    @Test func aReaddressedUplinkIsFollowedOnBothSides() throws {
        try withPlayground(nodes: 2) { playground in
            try playground.addPod("a", node: "node1")
            let peer = try playground.addPod("b", node: "node2")
            let node = try playground.namespace("node1")
            _ = try shell("ip addr del 192.168.77.11/24 dev eth0; ip addr add 192.168.77.99/24 dev eth0", in: node)
            try configureRoute(node)
            // Another part of the cluster tells the peers; here it is the manifest.
            let path = "\(playground.manifests)/node1.yaml"
            let manifest = try String(contentsOf: URL(fileURLWithPath: path), encoding: .utf8)
            try Data(manifest.replacing("192.168.77.11", with: "192.168.77.99").utf8)
                .write(to: URL(fileURLWithPath: path), options: .atomic)
            try eventually { try shell("ip -d link show knetd.1 || true", in: node).contains("local 192.168.77.99") }
            try eventually {
                try shell("bridge fdb show dev knetd.1", in: playground.namespace("node2")).contains(
                    "dst 192.168.77.99")
            }
            let prober = Prober(try playground.namespace("a"), milliseconds: 300)
            try eventually { peer.allSatisfy { (try? prober.ping($0)) != nil } }
        }
    }

    private func configureRoute(_ node: NetworkNamespace) throws {
        _ = try shell("ip route replace default via 192.168.77.1 proto static", in: node)
    }

    @Test func aThousandLinksAtOnceCostNoRepairAndNoEventIsMissed() throws {
        try withPlayground(nodes: 2) { playground in
            try playground.addPod("a", node: "node1")
            let node = try playground.namespace("node1")
            let whole = try shell("ip route; ip -6 route show proto 107; bridge fdb show dev knetd.1", in: node)
            let commands =
                (0..<500).map { "link add t\($0)a type veth peer name t\($0)b" }.joined(separator: "\n") + "\n"
            let file = "\(playground.directory)/links"
            try Data(commands.utf8).write(to: URL(fileURLWithPath: file))
            _ = try shell("ip -batch \(file); ip route flush proto 107", in: node)
            // Comparing costs more with a thousand links, and more links come meanwhile.
            try eventually(within: 3) {
                try shell("ip route; ip -6 route show proto 107; bridge fdb show dev knetd.1", in: node) == whole
            }
            // Attaching goes on while they go.
            let deletions = (0..<500).map { "link del t\($0)a" }.joined(separator: "\n") + "\n"
            try Data(deletions.utf8).write(to: URL(fileURLWithPath: file))
            let process = try ChildProcess.start(
                "ip", ["-batch", file], in: node, log: "\(playground.directory)/ip.log")
            defer { ChildProcess.end(process) }
            let start = ContinuousClock.now
            let pods = try playground.addPod("late", node: "node1")
            #expect(ContinuousClock.now - start < .seconds(2))
            let address = try #require(pods.first)
            // What is attached answers at once.
            #expect(throws: Never.self) { try Prober(node, milliseconds: 300).ping(address) }
        }
    }

    @Test func lostNotificationsEndInAComparison() throws {
        // The smallest receive buffer that the kernel grants overflows at once, which it reports as ENOBUFS.
        try withPlayground(nodes: 2, daemon: ["KNETD_NETLINK_BUFFER": "1"]) { playground in
            let node = try playground.namespace("node1")
            let whole = try shell("ip route; ip -6 route show proto 107", in: node)
            let commands =
                (0..<300).map { "route add 10.200.\($0 % 250).\($0 / 250) dev eth0" }.joined(separator: "\n")
                + "\nroute flush proto 107\n"
                + (0..<300).map { "route del 10.200.\($0 % 250).\($0 / 250) dev eth0" }.joined(separator: "\n") + "\n"
            let file = "\(playground.directory)/routes"
            try Data(commands.utf8).write(to: URL(fileURLWithPath: file))
            _ = try shell("ip -batch \(file)", in: node)
            try eventually { try shell("ip route; ip -6 route show proto 107", in: node) == whole }
            #expect(try metric("knetd_notifications_lost_total", of: "node1", playground) > 0)
        }
    }

    /// What deploy/knetd.service grants.
    private static let granted: Set<String> = {
        let unit =
            (try? String(contentsOf: URL(fileURLWithPath: "\(Checkout.path)/deploy/knetd.service"), encoding: .utf8))
            ?? ""
        let line = unit.split(separator: "\n").first { $0.hasPrefix("CapabilityBoundingSet=") } ?? ""
        return Set(line.split(separator: "=").last?.split(separator: " ").map { $0.dropFirst(4).lowercased() } ?? [])
    }()

    @Test func theDemoRunsWithTheRightsOfTheUnitAlone() throws {
        #expect(Self.granted == ["net_admin", "sys_admin", "dac_read_search", "net_bind_service", "net_raw"])
        // The probes, which are no part of the daemon, need it too, for ICMP.
        let rights = Self.granted.map { ",+\($0)" }.joined()
        let outcome = try ChildProcess.run(
            "setpriv", ["--bounding-set=-all\(rights)", "--no-new-privs", Checkout.executable, "playground", "demo"])
        #expect(outcome.status == 0, "\(outcome.output)\(outcome.errors)")
    }

    @Test func theDaemonNeedsNoMoreThanTheUnitGrants() throws {
        let rights = Self.granted.map { ",+\($0)" }.joined()
        try withPlayground(nodes: 2, ["plugins": ["overlay": [:], "dns": [:]]]) { playground in
            for node in playground.nodeNames {
                try playground.stopDaemon(node)
                try playground.startDaemon(
                    node, wrapper: ["setpriv", "--bounding-set=-all\(rights)", "--no-new-privs"])
                try playground.waitUntilReady(node)
                let status = try shell(
                    "grep CapEff /proc/\(playground.process(of: node))/status", in: playground.namespace(node))
                // CAP_DAC_READ_SEARCH 2, CAP_NET_BIND_SERVICE 10, CAP_NET_ADMIN 12, CAP_NET_RAW 13, CAP_SYS_ADMIN 21.
                #expect(status == "CapEff:\t0000000000203404\n")
            }
            try NetworkNamespace.create(path: playground.namespacePath("a"))
            var cni = CNIRun(playground: playground)
            cni.extra["runtimeConfig"] = [
                "portMappings": [["hostPort": 18_007, "containerPort": .integer(Int(EchoServer.port))]],
                "bandwidth": ["egressRate": 800_000_000, "egressBurst": 8_000_000],
            ]
            #expect(try cni("ADD", pod: "a").status == 0)
            let names = try shell("dig +short +tries=1 @169.254.20.10 localhost", in: playground.namespace("a"))
            #expect(names == "127.0.0.1\n")
            let server = try EchoServer(in: playground.namespace("a"))
            defer { server.stop() }
            let node = try #require(playground.address(of: "node1", .v4))
            _ = try Prober(playground.namespace("outside"), port: 18_007).stream(node, bytes: 10_000)
            _ = try playground.addPod("b", node: "node2").map { try Prober(playground.namespace("a")).ping($0) }
            #expect(try cni("DEL", pod: "a").status == 0)
            #expect(!playground.log(of: "node1").contains("refused"), "\(playground.log(of: "node1"))")
        }
    }
}
