import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport
import Testing

/// Services while endpoints, rules and the daemon come and go under load.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct ServiceLifeTests {
    private typealias Stage = ServiceStage

    /// New connections at a steady rate, and what became of those that were not answered.
    private final class Load: Sendable {
        private let failed = Mutex<[String]>([])
        private let count = Atomic(0)
        private let isStopped = Atomic(false)
        private let ended = Atomic(false)

        init(_ stage: ServiceStage, from client: String, to address: IPAddress, port: UInt16) throws {
            let prober = Prober(try stage.playground.namespace(client), port: port, milliseconds: 2000)
            try DedicatedThread.start(name: "test-load") { [self] in
                while !isStopped.load(ordering: .relaxed) {
                    do {
                        _ = try prober.answer(address, bytes: 10)
                    } catch {
                        failed.withLock { $0.append("\(error)") }
                    }
                    count.add(1, ordering: .relaxed)
                    usleep(4500)
                }
                ended.store(true, ordering: .relaxed)
            }
        }

        /// - Returns: how many connections there were, and the failures.
        func stop() -> (count: Int, failures: [String]) {
            isStopped.store(true, ordering: .relaxed)
            while !ended.load(ordering: .relaxed) { usleep(1000) }
            return (count.load(ordering: .relaxed), failed.withLock { $0 })
        }
    }

    private static let ports: [JSONValue] = [["port": 80, "targetPort": 7007, "nodePort": 30080]]

    private func service(_ policy: String) -> JSONValue {
        Stage.service("web", 1, ports: Self.ports, ["type": "NodePort", "externalTrafficPolicy": .string(policy)])
    }

    @Test(arguments: ["Cluster", "Local"]) func aRollingUpdateLosesNoConnection(policy: String) throws {
        let old = (1...4).map { (name: "old\($0)", node: $0 > 2 && policy == "Cluster" ? "node2" : "node1") }
        try withServices(servers: old) { stage in
            let service = service(policy)
            var ends = old.map { ServiceStage.End(pod: $0.name) }
            try stage.put([service] + stage.slices("web", ends))
            try stage.waitFor(1) { $0.server != nil }
            let node = try stage.address("node1", .v4)
            try eventually(within: 3) { try stage.connect(from: "outside", to: node, port: 30080).server != nil }
            let loads = [
                try Load(stage, from: "outside", to: node, port: 30080),
                try Load(stage, from: "c1", to: stage.ip(Stage.clusterIP(1, .v6)), port: 80),
            ]
            for (index, pod) in old.enumerated() {
                let new = "new\(index + 1)"
                try stage.addServer(new, node: pod.node)
                ends.append(.init(pod: new))
                try stage.put([service] + stage.slices("web", ends))
                usleep(200_000)
                // It still serves while it ends; then it is gone from the slices, and only then does it stop.
                ends[index].conditions = ["ready": false, "serving": true, "terminating": true]
                try stage.put([service] + stage.slices("web", ends))
                usleep(200_000)
            }
            try stage.put([service] + stage.slices("web", Array(ends.dropFirst(4))))
            usleep(300_000)
            for pod in old { try stage.playground.deletePod(pod.name) }
            usleep(200_000)
            for load in loads {
                let (count, failures) = load.stop()
                #expect(failures == [] && count > 100, "\(count) connections")
                print("rolling update, \(policy): \(count) connections, \(failures.count) failed")
            }
            let servers = try stage.servers(from: "c1", to: stage.ip(Stage.clusterIP(1, .v4)))
            #expect(Set(servers.keys) == Set(try (1...4).map { try stage.address("new\($0)", .v4) }))
        }
    }

    @Test func theDaemonsDeathAndReturnIsNotNoticedAndWritesNothing() throws {
        try withServices { stage in
            try stage.put([service("Cluster")] + stage.slices("web", [.init(pod: "a"), .init(pod: "b")]))
            try stage.waitFor(1) { $0.server != nil }
            let load = try Load(stage, from: "c1", to: stage.ip(Stage.clusterIP(1, .v4)), port: 80)
            for _ in 0..<3 {
                try stage.playground.stopDaemon("node1", signal: SIGKILL)
                usleep(100_000)
                try stage.playground.startDaemon("node1")
                try stage.playground.waitUntilReady("node1")
                usleep(200_000)
                #expect(try metric("knetd_kernel_writes_total", of: "node1", stage.playground) == 0)
            }
            let (count, failures) = load.stop()
            #expect(failures == [] && count > 50)
            // What changed while it was away is done when it is back.
            try stage.playground.stopDaemon("node1", signal: SIGKILL)
            try stage.put([service("Cluster")] + stage.slices("web", [.init(pod: "b")]))
            try stage.playground.startDaemon("node1")
            try stage.playground.waitUntilReady("node1")
            let address = try stage.ip(Stage.clusterIP(1, .v4))
            let b = try stage.address("b", .v4)
            try eventually(within: 2) { Set(try stage.servers(from: "c1", to: address, count: 10).keys) == [b] }
        }
    }

    @Test func killedAtRandomTheTableEndsAsAFreshStartMakesIt() throws {
        let seed =
            ProcessInfo.processInfo.environment["KNETD_SEED"].flatMap(UInt64.init) ?? UInt64.random(in: 0...UInt64.max)
        print("KNETD_SEED=\(seed)")
        var random = SeededGenerator(seed: seed)
        try withServices(nodes: 1, servers: []) { stage in
            var kills = 0
            func restart() throws {
                try stage.playground.stopDaemon("node1", signal: SIGKILL)
                try stage.playground.startDaemon("node1")
            }
            for _ in 0..<60 {
                try stage.put((1...12).flatMap { try randomService($0, stage, &random) })
                usleep(UInt32.random(in: 0...60_000, using: &random))
                if Bool.random(using: &random) {
                    kills += 1
                    try restart()
                    if Bool.random(using: &random) { try stage.playground.waitUntilReady("node1") }
                }
            }
            // The first comparison makes what the last change asks for; sets that this left unused go with the second.
            for _ in 0..<2 {
                try restart()
                try stage.playground.waitUntilReady("node1")
            }
            let held = try tableInForce(stage)
            try stage.playground.stopDaemon("node1", signal: SIGKILL)
            _ = try shell("nft delete table inet knetd_services", in: stage.playground.namespace("node1"))
            try stage.playground.startDaemon("node1")
            let fresh = try tableInForce(stage)
            #expect(held.difference(from: fresh).isEmpty)
            #expect(fresh.count > 100 && kills > 15, "\(kills) kills")
        }
    }

    /// The parts of the table in no particular order, once everything is in force.
    private func tableInForce(_ stage: Stage) throws -> [String] {
        try stage.playground.waitUntilReady("node1")
        return try shell("nft -s list table inet knetd_services", in: stage.playground.namespace("node1"))
            .split { "\n\t,".contains($0) }
            .map {
                $0.split(separator: " ").filter { !["elements", "=", "{", "}"].contains($0) }.joined(separator: " ")
            }
            .filter { !$0.isEmpty }.sorted()
    }

    /// A Service with up to five endpoints, or none.
    private func randomService(
        _ number: Int, _ stage: Stage, _ random: inout SeededGenerator
    ) throws -> [JSONValue] {
        if Int.random(in: 0..<4, using: &random) == 0 { return [] }
        let name = "s\(number)"
        let isUDP = Bool.random(using: &random)
        let transport: JSONValue = isUDP ? "UDP" : "TCP"
        let spec: [String: JSONValue] = [
            "sessionAffinity": Int.random(in: 0..<4, using: &random) == 0 ? "ClientIP" : "None",
            "externalTrafficPolicy": Bool.random(using: &random) ? "Local" : "Cluster", "type": "NodePort",
        ]
        let methods: [JSONValue] = ["random", "source-hash", "consistent"]
        let method = methods[Int.random(in: 0..<3, using: &random)]
        let service = Stage.service(
            name, number,
            ports: [["port": 80, "targetPort": 7007, "protocol": transport, "nodePort": .integer(30000 + number)]],
            annotations: ["knetd.io/balance": method], spec)
        let count = Int.random(in: 0...5, using: &random)
        let endpoints = (0..<count).map { _ -> JSONValue in
            let host = Int.random(in: 50..<80, using: &random)
            return [
                "addresses": [.string("10.42.1.\(host)")],
                "nodeName": Bool.random(using: &random) ? "node1" : "node2",
            ]
        }
        return [
            service,
            [
                "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                "metadata": ["name": .string("\(name)-4"), "labels": ["kubernetes.io/service-name": .string(name)]],
                "addressType": "IPv4", "endpoints": .array(endpoints),
                "ports": [["port": 7007, "protocol": transport]],
            ],
        ]
    }

    @Test(arguments: [
        "flush chain inet knetd_services services", "delete table inet knetd_services",
        "delete element inet knetd_services services_tcp4 { 10.96.0.1 . 80 }",
        "flush map inet knetd_services endpoints_tcp4", "flush ruleset",
        "add rule inet knetd_services tcp4 drop",
    ]) func whatSomebodyChangesByHandIsRepaired(command: String) throws {
        try withServices(nodes: 1, servers: [("a", "node1")]) { stage in
            try stage.put([service("Cluster")] + stage.slices("web", [.init(pod: "a")]))
            try stage.waitFor(1) { $0.server != nil }
            let namespace = try stage.playground.namespace("node1")
            let before = try shell("nft -s list table inet knetd_services", in: namespace)
            _ = try shell("nft '\(command)'", in: namespace)
            let milliseconds = try eventually(within: 1) {
                (try? shell("nft -s list table inet knetd_services", in: namespace))?.split(separator: "\n").sorted()
                    == before.split(separator: "\n").sorted()
            }
            print("repaired after \(milliseconds) ms: \(command)")
            try stage.waitFor(1) { $0.server != nil }
        }
    }

    @Test func anEstablishedConnectionPassesNoRuleAndOthersKeepTheirMarksAndTheirNAT() throws {
        try withServices(byRules: true) { stage in
            let ports: [JSONValue] = [["port": 80, "targetPort": 7008]]
            try stage.put(
                [Stage.service("web", 1, ports: ports)]
                    + stage.slices("web", [.init(pod: "a")], ports: [["port": 7008]]))
            let address = try stage.ip(Stage.clusterIP(1, .v4))
            let (a, node) = (try stage.address("a", .v4), try stage.address("node1", .v4))
            let namespace = try stage.playground.namespace("node1")
            _ = try shell(
                """
                nft -f - <<'END'
                table inet somebody {
                    counter marked { }
                    counter unmarked { }
                    chain prerouting {
                        type filter hook prerouting priority raw; policy accept;
                        ip daddr \(address) tcp dport 80 meta mark set 0xabcd1234 meta nftrace set 1
                    }
                    chain postrouting {
                        type filter hook postrouting priority 300; policy accept;
                        ip daddr \(a) tcp dport 7008 meta mark 0xabcd1234 counter name marked
                        ip daddr \(a) tcp dport 7008 meta mark != 0xabcd1234 counter name unmarked
                    }
                    chain nat {
                        type nat hook prerouting priority dstnat; policy accept;
                        ip daddr \(node) tcp dport 9999 dnat ip to \(a):7007
                    }
                }
                END
                """, in: namespace)
            let log = "\(stage.playground.directory)/trace.log"
            let monitor = try ChildProcess.start(
                "/usr/bin/stdbuf", ["-oL", "nft", "monitor", "trace"], in: namespace, log: log)
            defer {
                kill(monitor, SIGTERM)
                waitpid(monitor, nil, 0)
            }
            usleep(300_000)
            try eventually(within: 3) {
                (try? StreamClient(to: address, port: 80, in: stage.playground.namespace("c1"), milliseconds: 300)
                    .exchange(bytes: 10)) != nil
            }
            let client = try StreamClient(to: address, port: 80, in: stage.playground.namespace("c1"))
            for _ in 0..<50 { try client.exchange(bytes: 100) }
            usleep(500_000)
            // An identifier of a trace may come again, so that it is the lines that are counted.
            let lines = try contents(of: log).split(separator: "\n")
            let traced = lines.count { $0.contains(" inet somebody prerouting policy accept") }
            #expect(traced > 50, "\(traced) packets were traced")
            // The first packet of each of the two or three connections, and no other.
            for hook in ["prerouting", "postrouting"] {
                let passed = lines.count { $0.contains(" inet knetd_services \(hook) packet: ") }
                #expect((1...6).contains(passed), "\(passed) of \(traced) packets passed \(hook)")
            }
            let counters = try shell("nft list counters table inet somebody", in: namespace)
            #expect(counters.contains("counter unmarked {\n\t\tpackets 0 "), "\(counters)")
            #expect(!counters.contains("counter marked {\n\t\tpackets 0 "), "\(counters)")
            #expect(try stage.connect(from: "outside", to: node, port: 9999).server == a)
        }
    }

    @Test func rulesThatAKubeProxyLeftAreToldAndRemovedAndNoOthers() throws {
        try withServices(nodes: 1, servers: []) { stage in
            let namespace = try stage.playground.namespace("node1")
            var tools = ["iptables-nft"]
            // Not every kernel has the old iptables.
            if (try? shell("iptables-legacy -t nat -S", in: namespace)) != nil { tools.append("iptables-legacy") }
            for tool in tools {
                let commands = [
                    "-N KUBE-SERVICES", "-N KUBE-SVC-ABC", "-N KUBE-FIREWALL", "-N OTHERS",
                    "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
                    "-A PREROUTING -j OTHERS", "-A OUTPUT -j KUBE-FIREWALL",
                    "-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-ABC",
                    "-A OTHERS -d 10.1.1.1/32 -j ACCEPT",
                ]
                for command in commands { _ = try shell("\(tool) -t nat \(command)", in: namespace) }
            }
            _ = try shell(
                "nft add table ip kube-proxy && nft add chain ip kube-proxy services && nft add table ip somebody",
                in: namespace)
            func rules() throws -> [String?] {
                try stage.playground.status(of: "node1")["kubeProxyRules"]?.array?.map(\.string) ?? []
            }
            let expected =
                ["the nftables table ip kube-proxy"]
                + tools.map { "2 chains of \($0) in the table \($0 == "iptables-nft" ? "ip " : "")nat" }
            #expect(try rules() == expected)
            let told = try shell("\(Checkout.executable) cleanup --kube-proxy", in: namespace)
            #expect(told == "removed \(expected.joined(separator: ", "))\n")
            #expect(try rules() == [])
            for tool in tools {
                let left = try shell("\(tool) -t nat -S", in: namespace).split(separator: "\n").filter {
                    !$0.hasPrefix("-P")
                }
                #expect(
                    Set(left) == [
                        "-N KUBE-FIREWALL", "-N OTHERS", "-A PREROUTING -j OTHERS", "-A OUTPUT -j KUBE-FIREWALL",
                        "-A OTHERS -d 10.1.1.1/32 -j ACCEPT",
                    ])
            }
            #expect(try shell("nft list tables", in: namespace).contains("table ip somebody"))
            #expect(
                try shell("\(Checkout.executable) cleanup --kube-proxy", in: namespace)
                    == "no rules of a kube-proxy are there\n")
        }
    }

    private func contents(of path: String) throws -> String {
        String(decoding: try KnetCore.contents(ofFile: path), as: UTF8.self)
    }

    @Test(arguments: [3, 7, 100]) func connectionsAreSpreadEvenly(count: Int) throws {
        // A first packet that comes too early is to leave no connection behind, whose port a later one may have.
        let serviceProxy: JSONValue = ["serviceCIDRs": [.string(Stage.clusterRange)]]
        let configuration: JSONValue = ["plugins": ["overlay": [:], "serviceProxy": serviceProxy]]
        try withServices(configuration, nodes: 1, servers: [("a", "node1")]) { stage in
            let addresses = try (0..<count).map { try stage.ip("10.42.1.\(100 + $0)") }
            let link = try #require(
                shell("ip -4 route get \(stage.address("a", .v4))", in: stage.playground.namespace("node1"))
                    .split(separator: " ").first { $0.hasPrefix("knet") })
            for address in addresses {
                _ = try shell("ip addr add \(address)/32 dev eth0", in: stage.playground.namespace("a"))
                _ = try shell("ip route add \(address)/32 dev \(link)", in: stage.playground.namespace("node1"))
            }
            let slice: JSONValue = [
                "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                "metadata": ["name": "web-4", "labels": ["kubernetes.io/service-name": "web"]], "addressType": "IPv4",
                "endpoints": .array(addresses.map { ["addresses": [.string("\($0)")], "nodeName": "node1"] }),
                "ports": [["port": 7007]],
            ]
            for method in ["random", "consistent"] {
                try stage.put([Stage.service("web", 1, annotations: ["knetd.io/balance": .string(method)]), slice])
                let address = try stage.ip(Stage.clusterIP(1, .v4))
                try eventually(within: 4) { try stage.connect(from: "c1", to: address).server != nil }
                usleep(300_000)
                let total = 40 * count + 600
                let start = ContinuousClock.now
                let shares = try stage.servers(from: "c1", to: address, count: total)
                print("\(method), \(count) endpoints: \(total) connections in \(ContinuousClock.now - start)")
                #expect(shares.count == count, "\(method)")
                // Five standard deviations; a table of Maglev's is itself uneven by one slot in eight at most.
                let mean = Double(total) / Double(count)
                let bound = 5 * mean.squareRoot() + (method == "consistent" ? mean / 4 : 0)
                for (server, share) in shares {
                    #expect(abs(Double(share) - mean) <= bound, "\(method) \(server) \(share) of \(mean)")
                }
            }
        }
    }

    @Test func badObjectsAreReportedByNameAndOthersServed() throws {
        try withServices { stage in
            func port(_ number: Int, _ name: String = "", nodePort: Int? = nil, protocol: String = "TCP") -> JSONValue {
                .object([
                    "name": .string(name), "port": .integer(number), "targetPort": 7007,
                    "protocol": .string(`protocol`),
                    "nodePort": nodePort.map(JSONValue.integer) ?? .null,
                ])
            }
            let many = (1...5000).map { port($0, "p\($0)") }
            try stage.put(
                [
                    Stage.service("good", 1), Stage.service("zero", 2, ports: [port(0)]),
                    Stage.service("family", 3, ["clusterIPs": ["10.96.0.3", "not an address"]]),
                    Stage.service("first", 4, ports: [port(80, nodePort: 30080)], ["type": "NodePort"]),
                    Stage.service("second", 5, ports: [port(80, nodePort: 30080)], ["type": "NodePort"]),
                    Stage.service("many", 6, ports: many), Stage.service("twice", 7, ports: [port(80), port(81)]),
                    Stage.service("odd", 8, ports: [port(80, protocol: "ICMP")]),
                    [
                        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                        "metadata": ["name": "odd-x", "labels": ["kubernetes.io/service-name": "odd"]],
                        "addressType": "FQDN", "endpoints": [["addresses": ["example.org"]]], "ports": [["port": 7007]],
                    ],
                ] + ["good", "zero", "family", "first", "twice"].flatMap { try stage.slices($0, [.init(pod: "a")]) }
                    + stage.slices("second", [.init(pod: "b")])
                    + stage.slices(
                        "many", [.init(pod: "a")], ports: (1...5000).map { ["name": .string("p\($0)"), "port": 7007] }))
            try stage.waitFor(1, within: 30) { $0.server != nil }
            for family in IPFamily.allCases {
                try stage.waitFor(6, port: 4711) { $0.server != nil }
                #expect(try stage.connect(from: "c1", to: 6, family, port: 4711).server == stage.address("a", family))
                #expect(
                    try stage.connect(from: "c1", to: stage.address("node1", family), port: 30080).server
                        == stage.address("a", family))
            }
            #expect(try stage.connect(from: "c1", to: 3, .v4).server == stage.address("a", .v4))
            let expected = [
                ("zero", "spec.ports[0].port: 0 is not in 1…65535"),
                ("family", "spec.clusterIPs[1]: \"not an address\" is not an IP address"),
                ("second", "conflicts with Service/default/first, which stays in force"),
                ("twice", "spec.ports[1].name: \"\" is another port's name too"),
                ("odd", "addressType \"FQDN\" is neither IPv4 nor IPv6"), ("odd", "\"ICMP\" is none of TCP, UDP, SCTP"),
            ]
            var faults: [String] = []
            // The kernel serves before the report is written.
            try eventually(within: 4) {
                faults = (try stage.playground.status(of: "node1")["plugins"]?.array ?? []).flatMap {
                    $0["faults"]?.array ?? []
                }.compactMap(\.string)
                return expected.allSatisfy { name, reason in
                    faults.contains { $0.hasPrefix("Service/default/\(name): ") && $0.contains(reason) }
                }
            }
            for fault in faults {
                #expect(expected.contains { fault.hasPrefix("Service/default/\($0.0): ") }, "\(fault)")
            }
        }
    }
}
