import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// `bandwidth`, `ips`, `mac`, chains of plugins, and `loopback`.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct CapabilityTests {
    private func pod(_ name: String, _ playground: Playground) throws -> NetworkNamespace {
        try NetworkNamespace.create(path: playground.namespacePath(name))
        return try playground.namespace(name)
    }

    private func run(_ playground: Playground, _ runtimeConfig: JSONValue) -> CNIRun {
        var cni = CNIRun(playground: playground)
        cni.extra["runtimeConfig"] = runtimeConfig
        return cni
    }

    // MARK: Addresses

    @Test func aPodGetsTheAddressesAndTheMACAddressThatAreAskedFor() throws {
        try withPlayground { playground in
            let cni = run(
                playground, ["ips": ["10.42.1.77/24", "fd42:0:0:1::77"], "mac": "02:00:00:00:00:77"])
            let a = try pod("a", playground)
            let added = try cni("ADD", pod: "a")
            #expect(
                added.json["ips"]?.array?.map { $0["address"]?.string ?? "" } == [
                    "10.42.1.77/32", "fd42:0:0:1::77/128",
                ])
            #expect(added.json["interfaces"]?.array?.last?["mac"] == "02:00:00:00:00:77")
            #expect(try shell("ip -o link show eth0", in: a).contains("02:00:00:00:00:77"))
            try Prober(playground.namespace("node1")).ping(try #require(IPAddress("10.42.1.77")))

            _ = try pod("b", playground)
            let taken = try run(playground, ["ips": ["10.42.1.77"]])("ADD", pod: "b")
            #expect(taken.json["code"] == 104)
            #expect(taken.json["msg"]?.string?.contains("taken by test-a/eth0") == true)
            let elsewhere = try run(playground, ["ips": ["10.9.9.9"]])("ADD", pod: "b")
            #expect(elsewhere.json["code"] == 7)
            #expect(elsewhere.json["details"]?.string?.contains("10.42.1.1 to 10.42.1.254") == true)
            let group = try run(playground, ["mac": "01:00:00:00:00:77"])("ADD", pod: "b")
            #expect(group.json["msg"]?.string?.contains("unicast MAC address") == true)
            // As podman asks, and one family alone.
            var podman = CNIRun(playground: playground)
            podman.environment["CNI_ARGS"] = "IgnoreUnknown=1;IP=10.42.1.78;MAC=02:00:00:00:00:78"
            let asked = try podman("ADD", pod: "b").json
            #expect(asked["ips"]?.array?.first?["address"] == "10.42.1.78/32")
            #expect(asked["ips"]?.array?.count == 2)
            #expect(asked["interfaces"]?.array?.last?["mac"] == "02:00:00:00:00:78")
            // The address is free at once for who asks for it.
            #expect(try CNIRun(playground: playground)("DEL", pod: "a").status == 0)
            _ = try pod("c", playground)
            #expect(try run(playground, ["ips": ["10.42.1.77"]])("ADD", pod: "c").status == 0)
        }
    }

    // MARK: Bandwidth

    @Test func aPodsBandwidthIsLimitedBothWays() throws {
        try withPlayground { playground in
            let a = try pod("a", playground)
            let limits: JSONValue = [
                "bandwidth": [
                    "ingressRate": 16_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000,
                ]
            ]
            let cni = run(playground, limits)
            let added = try cni("ADD", pod: "a")
            #expect(added.status == 0, "\(added.json)")
            let address = try #require(
                added.json["ips"]?.array?.first?["address"]?.string?.split(separator: "/").first.flatMap {
                    IPAddress($0)
                })
            let node = try playground.namespace("node1")
            let disciplines = try shell("tc qdisc show", in: node)
            for words in ["tbf 1: dev knet", "rate 16Mbit burst 100000b lat 25ms", "tbf 1: dev kifb", "rate 8Mbit"] {
                #expect(disciplines.contains(words), "\(disciplines)")
            }
            // 1 MB goes and comes: the echo waits for the whole of it. 0.9 MB beyond the burst at 2 and at 1 MB/s.
            let server = try EchoServer(in: a)
            defer { server.stop() }
            let start = ContinuousClock.now
            _ = try Prober(node, milliseconds: 10_000).stream(address, bytes: 1_000_000)
            let seconds = (ContinuousClock.now - start) / .seconds(1)
            #expect(seconds > 0.8 && seconds < 6, "\(seconds) s")

            var check = cni
            check.extra["prevResult"] = added.json
            #expect(try check("CHECK", pod: "a").status == 0)
            _ = try shell("tc qdisc del dev $(ip -o link show type ifb | cut -d: -f2) root; true", in: node)
            let changed = try check("CHECK", pod: "a").json
            #expect(changed["details"]?.string?.contains("does not limit the bandwidth") == true, "\(changed)")
            #expect(try cni("DEL", pod: "a").status == 0)
            try eventually { try shell("ip -o link show type ifb", in: node).isEmpty }
        }
    }

    // MARK: Chains

    /// Runs a reference plugin as the runtime does.
    private func reference(
        _ type: String, _ command: String, pod: String, _ config: [String: JSONValue], _ playground: Playground
    ) throws -> JSONValue {
        let base: [String: JSONValue] = ["cniVersion": "1.0.0", "name": "chain", "type": .string(type)]
        let outcome = try ChildProcess.run(
            "/usr/lib/cni/\(type)", [],
            environment: [
                "CNI_COMMAND": command, "CNI_CONTAINERID": "test-\(pod)", "CNI_IFNAME": "eth0",
                "CNI_NETNS": playground.namespacePath(pod), "CNI_PATH": "/usr/lib/cni",
            ], input: JSONValue.object(base.merging(config) { $1 }).text(), in: playground.namespace("node1"))
        guard outcome.status == 0 else { throw Playground.Failure("\(type): \(outcome.output)") }
        return outcome.output.isEmpty ? .null : try JSONValue(parsing: Data(outcome.output.utf8))
    }

    @Test func behindAnotherPluginItAddsPortsAndLimits() throws {
        try withPlayground { playground in
            let a = try pod("a", playground)
            let ipam: JSONValue = [
                "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": .string("\(playground.directory)/ipam"),
                "routes": [["dst": "0.0.0.0/0"]],
            ]
            let first = try reference("ptp", "ADD", pod: "a", ["ipam": ipam, "ipMasq": false], playground)
            var cni = run(
                playground,
                [
                    "portMappings": [["hostPort": 18_007, "containerPort": .integer(Int(EchoServer.port))]],
                    "bandwidth": ["ingressRate": 80_000_000, "ingressBurst": 800_000],
                ])
            cni.version = "1.0.0"
            cni.extra["prevResult"] = first
            let added = try cni("ADD", pod: "a")
            #expect(added.json == first, "the earlier plugin's result goes on unchanged")
            let server = try EchoServer(in: a)
            defer { server.stop() }
            let node = try #require(playground.address(of: "node1", .v4))
            _ = try Prober(playground.namespace("outside"), port: 18_007).stream(node, bytes: 10_000)
            #expect(try shell("tc qdisc show", in: playground.namespace("node1")).contains("rate 80Mbit"))
            #expect(try !shell("ip route", in: playground.namespace("node1")).contains("proto 107 scope link"))
            #expect(try cni("CHECK", pod: "a").status == 0)

            #expect(try cni("DEL", pod: "a").status == 0)
            #expect(throws: (any Error).self) {
                try Prober(playground.namespace("outside"), port: 18_007, milliseconds: 300).stream(node, bytes: 1)
            }
            #expect(try shell("ip -o link", in: a).contains("eth0"), "the earlier plugin's link is that plugin's")
            _ = try reference("ptp", "DEL", pod: "a", ["ipam": ipam, "prevResult": first], playground)
        }
    }

    @Test func beforeAnotherPluginItsResultIsUnderstood() throws {
        try withPlayground { playground in
            let a = try pod("a", playground)
            var cni = CNIRun(playground: playground)
            cni.version = "1.0.0"
            let result = try cni("ADD", pod: "a").json
            let tuned = try reference(
                "tuning", "ADD", pod: "a",
                ["prevResult": result, "sysctl": ["net.ipv4.conf.IFNAME.arp_notify": "1"]], playground)
            #expect(tuned["ips"] == result["ips"])
            #expect(try shell("sysctl -n net.ipv4.conf.eth0.arp_notify", in: a) == "1\n")
        }
    }

    @Test func afterAPluginThatMadeNoInterfaceResultsAreJoined() throws {
        try withPlayground { playground in
            _ = try pod("a", playground)
            var cni = CNIRun(playground: playground)
            cni.version = "1.0.0"
            cni.extra["prevResult"] = [
                "cniVersion": "1.0.0", "interfaces": [["name": "other0", "sandbox": "/elsewhere"]],
                "ips": [["address": "192.0.2.7/24", "interface": 0]], "dns": ["nameservers": ["192.0.2.53"]],
            ]
            let joined = try cni("ADD", pod: "a").json
            #expect(joined["interfaces"]?.array?.compactMap { $0["name"]?.string }.first == "other0")
            #expect(joined["interfaces"]?.array?.count == 3)
            #expect(joined["ips"]?.array?.map { $0["interface"]?.integer ?? -1 } == [0, 2, 2])
            #expect(joined["dns"]?["nameservers"] == ["192.0.2.53"])
        }
    }

    // MARK: Loopback

    @Test func asLoopbackItRaisesTheInterfaceWithoutADaemon() throws {
        try withPlayground { playground in
            try playground.stopDaemon("node1")
            let a = try pod("a", playground)
            var cni = CNIRun(playground: playground)
            cni.environment["CNI_IFNAME"] = "lo"
            cni.extra["type"] = "loopback"
            for version in ["0.3.1", "1.0.0", "1.1.0"] {
                cni.version = version
                let added = try cni("ADD", pod: "a")
                #expect(added.json["ips"]?.array?.first?["address"] == "127.0.0.1/8")
                #expect(try shell("ip -o link show lo", in: a).contains(",UP"))
                #expect(try cni("DEL", pod: "a").status == 0)
                #expect(try !shell("ip -o link show lo", in: a).contains(",UP"))
            }
            cni.environment["CNI_NETNS"] = ""
            #expect(try cni("DEL", pod: "a").status == 0)
        }
    }
}
