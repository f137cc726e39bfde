import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

@testable import knetd

@Suite struct ConfigCommandTests {
    private static let examples =
        ((try? FileManager.default.contentsOfDirectory(atPath: "\(Checkout.path)/configs")) ?? []).sorted()

    @Test(arguments: examples) func everyExampleIsValid(name: String) throws {
        let outcome = try knetd("config", "validate", "\(Checkout.path)/configs/\(name)")
        #expect(outcome.status == 0, "\(outcome.errors)")
    }

    @Test func thereAreExamples() { #expect(Self.examples.count >= 5) }

    @Test func aBrokenFileExitsWithTwoAndNamesPlaceAndRemedy() throws {
        let path = "\(FileManager.default.temporaryDirectory.path)/knetd-\(UInt32.random(in: 0...UInt32.max)).json"
        try Data(#"{"network": {"podCIDR": []}, "plugins": {"overlay": {}, "routed": {}}}"#.utf8).write(
            to: URL(fileURLWithPath: path))
        defer { unlink(path) }
        let outcome = try knetd("config", "validate", path)
        #expect(outcome.status == 2)
        #expect(outcome.errors.contains("\(path): 1 problem"))
        #expect(outcome.errors.contains("$.network.podCIDR: found unknown key"))
        #expect(outcome.errors.contains("did you mean \"podCIDRs\"?"))
    }

    /// An independent validator reads the schema that knetd prints: it must agree with knetd's own reader.
    @Test func theSchemaAcceptsTheExamplesAndRefusesWhatIsBroken() throws {
        let schema = try knetd("config", "schema").output
        let broken: [String] = [
            "[]", #"{"plugin": {}}"#, #"{"network": {"podCIDR": []}}"#, #"{"network": {"podCIDRs": "10.42.0.0/16"}}"#,
            #"{"network": {"podCIDRs": []}}"#, #"{"network": {"podCIDRs": ["10.42.0.0"]}}"#,
            #"{"network": {"podCIDRs": ["10.42.0.0/40"]}}"#, #"{"network": {"podCIDRs": [5]}}"#,
            #"{"network": {"podCIDRs": ["300.1.1.1/8"]}}"#, #"{"network": {"podCIDRs": ["fd42::/129"]}}"#,
            #"{"network": {"mtu": "automatic"}}"#, #"{"network": {"mtu": 500}}"#, #"{"network": {"mtu": 1400.5}}"#,
            #"{"network": {"mtu": 70000}}"#, #"{"network": {"masquerade": "true"}}"#,
            #"{"network": {"masqueradeExcept": ["x"]}}"#, #"{"plugins": {"overlay": {}, "routed": {}}}"#,
            #"{"plugins": {}}"#, #"{"plugins": {"overlay": {"vni": 0}}}"#,
            #"{"plugins": {"overlay": {"vni": 16777216}}}"#,
            #"{"plugins": {"overlay": {"vni": "7"}}}"#, #"{"plugins": {"overlay": {"vnid": 1}}}"#,
            #"{"plugins": {"overlay": {"port": 65536}}}"#, #"{"plugins": {"overlay": true}}"#,
            #"{"plugins": {"routed": {"port": 1}}}"#, #"{"plugins": {"overly": {}}}"#,
            #"{"agent": {"statusAddresses": ["127.0.0.1"]}}"#, #"{"agent": {"statusAddresses": ["::1:80"]}}"#,
            #"{"agent": {"runDirectory": "run"}}"#, #"{"agent": {"logLevel": "warn"}}"#,
            #"{"agent": {"resyncSeconds": 0}}"#, #"{"node": {"uplink": "a-name-that-is-too-long"}}"#,
            #"{"node": {"name": ""}}"#, #"{"cluster": {"manifests": {"directory": null}}}"#,
        ]
        let good = try Self.examples.map {
            try String(contentsOf: URL(fileURLWithPath: "\(Checkout.path)/configs/\($0)"), encoding: .utf8)
        }
        #expect(broken.count >= 30)
        let shown = try knetd("config", "show").output
        let script = """
            import json, sys, jsonschema
            schema = json.loads(sys.argv[1])
            jsonschema.Draft202012Validator.check_schema(schema)
            validator = jsonschema.Draft202012Validator(schema)
            print(json.dumps([validator.is_valid(json.loads(text)) for text in json.loads(sys.argv[2])]))
            """
        let texts = JSONValue.array((good + [shown] + broken).map(JSONValue.string)).text()
        let outcome = try ChildProcess.run("/usr/bin/python3", ["-c", script, schema, texts])
        #expect(outcome.status == 0, "\(outcome.errors)")
        let verdicts = try JSONValue(parsing: Data(outcome.output.utf8)).array ?? []
        let expected =
            [JSONValue](repeating: true, count: good.count + 1) + [JSONValue](repeating: false, count: broken.count)
        for (index, (verdict, wanted)) in zip(verdicts, expected).enumerated() {
            #expect(verdict == wanted, "\((good + [shown] + broken)[index])")
        }
        #expect(verdicts.count == expected.count)
        for text in broken {
            #expect(throws: ConfigurationError.self) { try Plugins.configuration.read(Data(text.utf8)) }
        }
    }
}

/// The tables of plugins agree: folders, Package.swift, Plugins.swift, READMEs.
@Suite struct PluginTableTests {
    @Test func foldersRowsAndLinesAgree() throws {
        let folders = Set(
            try FileManager.default.contentsOfDirectory(atPath: "\(Checkout.path)/plugins").filter {
                !$0.hasPrefix(".")
            })
        let package = try String(contentsOf: URL(fileURLWithPath: "\(Checkout.path)/Package.swift"), encoding: .utf8)
        let lines = try String(
            contentsOf: URL(fileURLWithPath: "\(Checkout.path)/Sources/knetd/Plugins.swift"), encoding: .utf8)
        let rows = package.matches(of: #/\(\"(?<trait>[A-Za-z]+)\", \"(?<folder>[a-z-]+)\", \"/#)
        #expect(Set(rows.map { String($0.output.folder) }) == folders)
        for row in rows {
            #expect(lines.contains("import \(row.output.trait)Plugin"))
            #expect(lines.components(of: "#if \(row.output.trait)\n") == 2)
            #expect(FileManager.default.fileExists(atPath: "\(Checkout.path)/plugins/\(row.output.folder)/README.md"))
        }
        #expect(rows.count == Plugins.all.count)
    }

    @Test func onlyOneFileAsksForTraits() throws {
        for row in ["Overlay", "Routed"] {
            let outcome = try ChildProcess.run(
                "/bin/grep", ["-rl", "#if \(row)", "\(Checkout.path)/Sources", "\(Checkout.path)/plugins"])
            #expect(outcome.output == "\(Checkout.path)/Sources/knetd/Plugins.swift\n")
        }
    }
}

extension String {
    /// How often `part` stands in this text.
    fileprivate func components(of part: String) -> Int { ranges(of: part).count }
}

@Suite(.serialized, .enabled(if: Root.isAvailable)) struct DaemonTests {
    @Test func anEmptyConfigurationRuns() throws {
        // `{}` with nothing but its folders moved: a single node, no manifests, no uplink.
        let namespace = try NetworkNamespace.anonymous()
        let folder = "\(FileManager.default.temporaryDirectory.path)/knetd-\(UInt32.random(in: 0...UInt32.max))"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let config: JSONValue = [
            "agent": ["runDirectory": .string(folder), "stateDirectory": .string(folder)],
            "cluster": ["manifests": ["directory": .string("\(folder)/none")]],
        ]
        try Data(config.text().utf8).write(to: URL(fileURLWithPath: "\(folder)/knetd.json"))
        try namespace.run { try NetlinkSocket().request(.changeLink(index: 1, up: true)) }
        let process = try ChildProcess.start(
            Checkout.executable, ["run", "--config", "\(folder)/knetd.json"], in: namespace, log: "\(folder)/log")
        defer {
            kill(process, SIGTERM)
            waitpid(process, nil, 0)
        }
        try eventually(within: 5) { try knetd("status", "--config", "\(folder)/knetd.json").status == 0 }
        let status = try knetd("status", "--config", "\(folder)/knetd.json").output
        #expect(status.contains("range    10.42.0.0/24") && status.contains("range    fd42::/64"), "\(status)")
    }

    @Test func statusTellsPluginsPeersAllocationsAndErrors() throws {
        try withPlayground(nodes: 2) { playground in
            try playground.addPod("a", node: "node1")
            let path = playground.configurationPath("node1")
            let text = try knetd("status", "--config", path)
            #expect(text.status == 0)
            for word in [
                "node node1: ready", "plugin   \(testedDataplane)", "peer     node2  192.168.77.12 fd77::c",
                "default/a",
                "1 of 254 in use",
            ] {
                #expect(text.output.contains(word), "\(text.output)")
            }
            let json = try JSONValue(parsing: Data(knetd("status", "--json", "--config", path).output.utf8))
            #expect(json["ready"] == true && json["peers"]?.array?.count == 1)
            var check = CNIRun(playground: playground)
            check.extra["prevResult"] = [:]
            _ = try check("CHECK", pod: "a")
            let after = try knetd("status", "--config", path).output
            #expect(after.contains("CHECK test-a/eth0  container test-a has no interface eth0 of knetd's"), "\(after)")
            try playground.stopDaemon("node1")
            let down = try knetd("status", "--config", path)
            #expect(down.status == 1 && down.errors.contains("systemctl start knetd"))
        }
    }

    @Test func healthReadinessAndMetricsAreServed() throws {
        try withPlayground(nodes: 2) { playground in
            try playground.addPod("a", node: "node1")
            #expect(try page("/healthz", of: "node1", playground).hasPrefix("HTTP/1.1 200"))
            #expect(try page("/readyz", of: "node1", playground).hasPrefix("HTTP/1.1 200"))
            #expect(try page("/nowhere", of: "node1", playground).hasPrefix("HTTP/1.1 404"))
            let metrics = try page("/metrics", of: "node1", playground)
            for line in [
                "knetd_ready 1", "knetd_peers 1", "knetd_allocations 1",
                #"knetd_range_addresses_used{cidr="10.42.1.0/24"} 1"#,
                #"knetd_cni_requests_total{command="ADD",outcome="success"} 1"#,
                "knetd_apply_failures_total{plugin=\"\(testedDataplane)\"} 0",
            ] { #expect(metrics.contains(line + "\n"), "\(metrics)") }
            unlink("\(playground.manifests)/node1.yaml")
            try eventually { try page("/readyz", of: "node1", playground).contains("there is no Node \"node1\"") }
            #expect(try page("/healthz", of: "node1", playground).hasPrefix("HTTP/1.1 200"))
        }
    }

    @Test func aReloadTakesAGoodFileAndKeepsTheOldOneForABadOne() throws {
        try withPlayground(nodes: 2) { playground in
            let node = try playground.namespace("node1")
            try playground.addPod("a", node: "node1")
            let path = playground.configurationPath("node1")
            let text = try String(contentsOf: URL(fileURLWithPath: path), encoding: .utf8)
            try Data("{".utf8).write(to: URL(fileURLWithPath: path))
            kill(playground.process(of: "node1"), SIGHUP)
            try eventually {
                try playground.status(of: "node1")["reloadFault"]?.string?.contains("not valid JSON") == true
            }
            #expect(try shell("ip link show knetd.1", in: node).contains("UP"))

            var config = try JSONValue(parsing: Data(text.utf8)).object ?? [:]
            config["plugins"] = ["routed": [:]]
            try Data(JSONValue.object(config).text().utf8).write(to: URL(fileURLWithPath: path))
            kill(playground.process(of: "node1"), SIGHUP)
            try eventually {
                try shell("ip route show proto 107", in: node).contains("10.42.2.0/24 via 192.168.77.12 dev eth0")
            }
            try eventually { try shell("ip link show type vxlan", in: node).isEmpty }
            #expect(try playground.status(of: "node1")["reloadFault"] == nil)
            try Prober(node).ping(#require(playground.addresses(of: "a").first))
        }
    }

    @Test func aReloadWithoutAChangeWritesNothing() throws {
        try withPlayground(nodes: 2) { playground in
            try playground.addPod("a", node: "node1")
            usleep(200_000)
            let before = try metric("knetd_netlink_writes_total", of: "node1", playground)
            kill(playground.process(of: "node1"), SIGHUP)
            try eventually { playground.log(of: "node1").contains("configuration reloaded") }
            try playground.waitUntilReady("node1")
            usleep(200_000)
            #expect(try metric("knetd_netlink_writes_total", of: "node1", playground) == before)
        }
    }

    @Test(arguments: [SIGTERM, SIGKILL]) func aRestartWritesNothingAndTrafficFlowsThroughout(signal: Int32) throws {
        try withPlayground(nodes: 2) { playground in
            try playground.addPod("a", node: "node1")
            let peer = try playground.addPod("b", node: "node2")
            let prober = Prober(try playground.namespace("a"), milliseconds: 1000)
            try playground.stopDaemon("node1", signal: signal)
            for address in peer { try prober.ping(address) }
            try playground.startDaemon("node1")
            for _ in 0..<50 {
                for address in peer { try prober.ping(address) }
                usleep(5_000)
            }
            try playground.waitUntilReady("node1")
            #expect(
                try metric("knetd_netlink_writes_total", of: "node1", playground) == 0, "\(playground.log(of: "node1"))"
            )
            #expect(try playground.addPod("c", node: "node1").map(\.description) == ["10.42.1.2", "fd42:0:0:1::2"])
        }
    }

    @Test func aSecondDaemonIsRefusedAndTheFirstGoesOn() throws {
        try withPlayground { playground in
            let second = try knetd(
                "run", "--config", playground.configurationPath("node1"), in: playground.namespace("node1"))
            #expect(second.status == 1 && second.errors.contains("another knetd runs"), "\(second.errors)")
            #expect(try CNIRun(playground: playground)("STATUS").status == 0)
        }
    }

    @Test func systemdIsToldWhenPodsCanBeAttached() throws {
        try withPlayground { playground in
            try playground.stopDaemon("node1")
            let path = "\(playground.directory)/notify"
            let receiver = try NotifySocket(path: path)
            let process = try ChildProcess.start(
                Checkout.executable, ["run", "--config", playground.configurationPath("node1")],
                environment: ["NOTIFY_SOCKET": path], in: playground.namespace("node1"),
                log: "\(playground.directory)/log")
            #expect(receiver.next() == "READY=1")
            kill(process, SIGTERM)
            #expect(receiver.next() == "STOPPING=1")
            var status: Int32 = -1
            waitpid(process, &status, 0)
            #expect(status == 0)
        }
    }
}

/// Receives what a service tells systemd.
private struct NotifySocket {
    private let number: Int32

    init(path: String) throws {
        number = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        try syscall("bind") { [number] in
            withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(number, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
                }
            }
        }
        var limit = timeval(tv_sec: 5, tv_usec: 0)
        setsockopt(number, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    func next() -> String? {
        var buffer = [UInt8](repeating: 0, count: 256)
        let count = recv(number, &buffer, buffer.count, 0)
        return count < 0 ? nil : String(decoding: buffer[..<count], as: UTF8.self)
    }
}

@Suite(.serialized, .enabled(if: Root.isAvailable)) struct InstallTests {
    @Test func installWritesBothFilesOnceReadyAndUninstallRemovesThem() throws {
        try withPlayground { playground in
            let config = playground.configurationPath("node1")
            let bin = "\(playground.directory)/node1/bin/knetd"
            let conflist = "\(playground.directory)/node1/net.d/10-knetd.conflist"
            try playground.stopDaemon("node1")
            let refused = try knetd("install", "--wait", "0", "--config", config)
            #expect(refused.status == 1 && refused.errors.contains("nothing was installed"))
            #expect(!FileManager.default.fileExists(atPath: conflist))
            #expect(try knetd("install", "--at-once", "--config", config).status == 0)
            #expect(FileManager.default.fileExists(atPath: conflist))
            #expect(try knetd("uninstall", "--config", config).status == 0)
            try playground.startDaemon("node1")
            #expect(try knetd("install", "--config", config).status == 0)
            let list = try JSONValue(parsing: Data(contentsOf: URL(fileURLWithPath: conflist)))
            #expect(list["plugins"]?.array?.first?["type"] == "knetd")
            #expect(list["plugins"]?.array?.first?["socket"] == .string(playground.socketPath("node1")))
            #expect(
                try Data(contentsOf: URL(fileURLWithPath: bin))
                    == Data(contentsOf: URL(fileURLWithPath: Checkout.executable)))
            #expect(
                try FileManager.default.contentsOfDirectory(atPath: "\(playground.directory)/node1/net.d") == [
                    "10-knetd.conflist"
                ])

            // As a runtime executes it: the installed file, with the list's plugin configuration.
            try NetworkNamespace.create(path: playground.namespacePath("a"))
            var plugin = list["plugins"]?.array?.first?.object ?? [:]
            plugin["cniVersion"] = list["cniVersion"]
            plugin["name"] = list["name"]
            let added = try ChildProcess.run(
                bin, [],
                environment: [
                    "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "x", "CNI_IFNAME": "eth0",
                    "CNI_NETNS": playground.namespacePath("a"), "CNI_PATH": "\(playground.directory)/node1/bin",
                ], input: JSONValue.object(plugin).text(), in: playground.namespace("node1"))
            #expect(added.status == 0, "\(added.output)")

            #expect(try knetd("uninstall", "--config", config).status == 0)
            #expect(!FileManager.default.fileExists(atPath: conflist) && !FileManager.default.fileExists(atPath: bin))
            #expect(try knetd("uninstall", "--config", config).output.contains("nothing was installed"))
        }
    }

    @Test func uninstallLeavesAFileOfSomebodyElse() throws {
        try withPlayground { playground in
            let folder = "\(playground.directory)/node1/net.d"
            try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
            try Data(#"{"plugins": [{"type": "flannel"}]}"#.utf8).write(
                to: URL(fileURLWithPath: "\(folder)/10-knetd.conflist"))
            let outcome = try knetd("uninstall", "--config", playground.configurationPath("node1"))
            #expect(outcome.status != 0 && outcome.errors.contains("is not knetd's"))
            #expect(FileManager.default.fileExists(atPath: "\(folder)/10-knetd.conflist"))
        }
    }

    @Test func cleanupRemovesAllOfOursAndNothingElse() throws {
        try withPlayground(nodes: 2) { playground in
            let node = try playground.namespace("node1")
            let config = playground.configurationPath("node1")
            let look = "ip -o link | cut -d: -f2-; ip route; ip -6 route; ip neigh show nud permanent; nft list ruleset"
            try playground.stopDaemon("node1")
            #expect(try knetd("cleanup", "--config", config, in: node).status == 0)
            _ = try shell(
                "ip route add 10.99.0.0/16 dev lo; nft add table inet somebody; ip link add other type veth peer name other2",
                in: node)
            let before = try shell(look, in: node)
            try playground.startDaemon("node1")
            try playground.waitUntilReady("node1")
            try playground.addPod("a", node: "node1")
            let refused = try knetd("cleanup", "--config", config, in: node)
            #expect(refused.status == 1 && refused.errors.contains("stop it first"))
            #expect(try shell(look, in: node) != before)
            try playground.stopDaemon("node1")
            let done = try knetd("cleanup", "--config", config, in: node)
            #expect(done.status == 0 && done.output.contains("1 pod links"), "\(done.errors)")
            #expect(try shell(look, in: node) == before)
            #expect(!FileManager.default.fileExists(atPath: "\(playground.directory)/node1/state/knetd.db"))
        }
    }
}

@Suite(.serialized, .enabled(if: Root.isAvailable)) struct PlaygroundCommandTests {
    @Test func aPlaygroundComesAndGoesByCommandsAndLeavesNothing() throws {
        let name = "cli-\(UInt32.random(in: 0...UInt32.max))"
        let before = try traces()
        let up = try knetd(
            "playground", "up", "--name", name, "--nodes", "2", "--config", "\(Checkout.path)/configs/edge-overlay.json"
        )
        #expect(up.status == 0, "\(up.errors)")
        #expect(try knetd("playground", "up", "--name", name).errors.contains("is up already"))
        #expect(
            try knetd("playground", "pod", "add", "--name", name, "--node", "node2", "web").output
                == "web on node2: 10.42.2.1 fd42:0:0:2::1\n")
        #expect(
            try knetd("playground", "pod", "add", "--name", name, "--node", "nod2", "x").errors.contains(
                "did you mean node2?"))
        #expect(try knetd("playground", "status", "--name", name).output.contains("default/web"))
        let run = try knetd(
            "playground", "exec", "--name", name, "web", "--", "ip", "-o", "-4", "addr", "show", "dev", "eth0")
        #expect(run.status == 0 && run.output.contains("10.42.2.1/32"), "\(run.errors)")
        #expect(try knetd("playground", "exec", "--name", name, "node1", "--", "false").status == 1)
        #expect(try knetd("playground", "pod", "del", "--name", name, "web").status == 0)
        #expect(try knetd("playground", "down", "--name", name).status == 0)
        #expect(try knetd("playground", "down", "--name", name).errors.contains("no playground"))
        let after = try traces()
        #expect(after == before, "before:\n\(before)\nafter:\n\(after)")
    }

    @Test func theDemoShowsAllDataplanesAndLeavesNothing() throws {
        let before = try traces()
        let demo = try knetd("playground", "demo")
        #expect(demo.status == 0, "\(demo.errors)")
        for dataplane in ["overlay", "routed", "ebpf"] {
            #expect(demo.output.contains("\(dataplane): 3 nodes and 6 pods up"))
        }
        #expect(
            demo.output.matches(of: #/pod[1-6] +IPv[46] +5\/5 +[0-9]+ +5\/5 +5\/5 +5\/5 +5\/5 +ok/#).count == 36,
            "\(demo.output)")
        let after = try traces()
        #expect(after == before, "before:\n\(before)\nafter:\n\(after)")
    }

    /// Links, nftables, mounts, files and processes that a playground could leave.
    private func traces() throws -> String {
        let script = """
            ip -o link | cut -d: -f2; nft list ruleset; grep knetd-playground /proc/self/mounts; ls /run/knetd-playground 2>&1
            ps -eo args | grep '[k]netd run --config /run/knetd-playground' | sort
            """
        return try ChildProcess.run("/bin/sh", ["-c", script]).output
    }
}
