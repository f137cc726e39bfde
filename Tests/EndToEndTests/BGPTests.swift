import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport
import Testing

/// Nodes and a router of another make, which tells an outside host the way to pods and Services.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct BGPTests {
    struct Case: CustomTestStringConvertible, Sendable {
        let make: TopOfRack.Make
        let isInternal: Bool
        let transport: IPFamily
        var testDescription: String {
            "\(make.rawValue), \(isInternal ? "the same AS" : "another AS"), over \(transport)"
        }
    }

    private static let cases = TopOfRack.Make.allCases.flatMap { make in
        [Case(make: make, isInternal: false, transport: .v4), Case(make: make, isInternal: true, transport: .v6)]
    }

    /// The plugin's part for one peer, the router.
    private static func bgp(
        _ options: TopOfRack.Options, _ peer: [String: JSONValue] = [:], _ more: [String: JSONValue] = [:]
    )
        -> JSONValue
    {
        let base: [String: JSONValue] = [
            "address": .string(options.transport == .v4 ? "192.168.77.1" : "fd77::1"), "as": .integer(options.localAS),
            "connectSeconds": 1, "holdSeconds": 9,
        ]
        let plugin: [String: JSONValue] = [
            "as": .integer(options.nodeAS), "peers": [.object(base.merging(peer) { $1 })],
        ]
        return .object(plugin.merging(more) { $1 })
    }

    private func withRouter(
        _ make: TopOfRack.Make, _ options: TopOfRack.Options, nodes: Int = 3, _ bgp: (Playground) throws -> JSONValue,
        _ body: (ServiceStage, TopOfRack) throws -> Void
    ) throws {
        try withServices(
            [
                "plugins": [plainRoutes.name: plainRoutes.settings, "serviceProxy": [:]],
                "network": ["masquerade": false],
            ], nodes: nodes,
            servers: (1...nodes).map { (["a", "b", "c"][$0 - 1], "node\($0)") }
        ) { stage in
            let router = try TopOfRack(make, options, stage.playground)
            defer { router.stop() }
            let plugin = try bgp(stage.playground)
            for node in stage.playground.nodeNames {
                try configure(
                    node, [plainRoutes.name: plainRoutes.settings, "serviceProxy": [:], "bgp": plugin], stage.playground
                )
            }
            do { try body(stage, router) } catch {
                Issue.record("\(error); the router's log: \(router.log.suffix(1_500))")
            }
        }
    }

    private static func peers(_ node: String, _ playground: Playground) throws -> [JSONValue] {
        let outcome = try knetd(
            "bgp", "peers", "--json", "--config", playground.configurationPath(node), in: playground.namespace(node))
        return (try? JSONValue(parsing: Data(outcome.output.utf8)).array) ?? []
    }

    private static func waitForSessions(_ playground: Playground, within seconds: Double = 15) throws {
        for node in playground.nodeNames {
            var peers: [JSONValue] = []
            let deadline = ContinuousClock.now + .seconds(seconds)
            while peers.isEmpty || !peers.allSatisfy({ $0["state"]?.string == "Established" }) {
                guard ContinuousClock.now < deadline else {
                    throw Playground.Failure("\(node) has no session: \(peers)")
                }
                usleep(20_000)
                peers = try Self.peers(node, playground)
            }
        }
    }

    private static func range(_ node: String, _ family: IPFamily) throws -> String {
        let number = try #require(Int(node.dropFirst(4)))
        return family == .v4 ? "10.42.\(number).0/24" : "fd42:0:0:\(number)::/64"
    }

    /// Pods' ranges and Services' addresses are exchanged, reached over all nodes, taken back with their endpoints, and told again when asked; with a
    /// password, TTL security and an AS number of four bytes where the router is another AS's.
    @Test(arguments: cases) func routersLearnWhatNodesHave(_ row: Case) throws {
        var options = TopOfRack.Options()
        options.transport = row.transport
        var peer: [String: JSONValue] = [:]
        if row.isInternal {
            options.localAS = options.nodeAS
        } else {
            options.localAS = 4_200_000_001
            options.password = "s3cret"
            options.hasTTLSecurity = true
            peer["ttlSecurity"] = 1
        }
        try withRouter(row.make, options) { playground in
            let file = "\(playground.directory)/password"
            try Data("s3cret\n".utf8).write(to: URL(fileURLWithPath: file))
            if options.password != nil { peer["passwordFile"] = .string(file) }
            peer["import"] = [["cidr": "203.0.113.0/24"], ["cidr": "fd99::/64"]]
            return Self.bgp(options, peer)
        } _: { stage, router in
            let playground = stage.playground
            try Self.waitForSessions(playground)
            // Every node's range, by that node.
            for family in IPFamily.allCases {
                for node in playground.nodeNames {
                    let own = try #require(playground.address(of: node, family)).description
                    try eventually(within: 5) {
                        try router.gateways(Self.range(node, family)) == [own]
                    }
                }
                // And what the router has, on every node, as far as it is allowed.
                for node in playground.nodeNames {
                    func learnt() throws -> String {
                        try shell(
                            "ip \(family == .v4 ? "-4" : "-6") route show proto 108", in: playground.namespace(node))
                    }
                    let route = family == .v4 ? "203.0.113.0/24 via 192.168.77.1" : "fd99::/64 via fd77::1"
                    try eventually(within: 5) { try learnt().contains(route) }
                    #expect(try !learnt().contains("10.42") && !learnt().contains("fd42"))
                }
            }
            let isForwarding = row.make != .gobgp
            if isForwarding {
                for family in IPFamily.allCases {
                    for pod in ["a", "b", "c"] {
                        let (target, client) = try (stage.address(pod, family), stage.address("outside", family))
                        #expect(try stage.connect(from: "outside", to: target, port: 7007).seen == client, "\(target)")
                    }
                }
            }
            // A Service's address, by all nodes; with Local by those with endpoints.
            for family in IPFamily.allCases {
                let address = family == .v4 ? "198.18.0.1" : "2001:db8:18::1"
                let prefix = "\(address)/\(family.bits)"
                func put(_ pods: [String], isLocal: Bool) throws {
                    let policy: [String: JSONValue] = isLocal ? ["externalTrafficPolicy": "Local"] : [:]
                    try stage.put(
                        [
                            ServiceStage.service(
                                "web", 1, ingress: [["ip": .string(address)]],
                                ["type": "LoadBalancer"].merging(policy) { $1 })
                        ] + (try stage.slices("web", pods.map { .init(pod: $0) })))
                }
                func own(_ nodes: String...) -> Set<String> {
                    Set(nodes.compactMap { playground.address(of: $0, family)?.description })
                }
                try put(["a", "b"], isLocal: false)
                try eventually(within: 5) { try router.gateways(prefix) == own("node1", "node2", "node3") }
                if isForwarding {
                    let target = try #require(IPAddress(address))
                    // The router hears of it as soon as the nodes' own rules are written.
                    try eventually(within: 2) { try stage.connect(from: "outside", to: target).server != nil }
                }
                try put(["a", "b"], isLocal: true)
                try eventually(within: 3) { try router.gateways(prefix) == own("node1", "node2") }
                try put(["b"], isLocal: true)
                try eventually(within: 1) { try router.gateways(prefix) == own("node2") }
                try router.refresh()
                usleep(300_000)
                #expect(try router.gateways(prefix) == own("node2"))
                try put([], isLocal: true)
                try eventually(within: 1) { try router.gateways(prefix).isEmpty }
            }
            for node in playground.nodeNames {
                let told = try #require(Self.peers(node, playground).first)
                #expect(told["as"]?.integer == options.localAS && told["flaps"] == 0, "\(told)")
                // Once for each family, and each round of this test.
                #expect((told["refreshes"]?.integer ?? 0) >= (row.make == .gobgp ? 0 : 2), "\(told)")
                #expect(told["malformed"] == 0 && (told["learnt"]?.integer ?? 0) >= 2)
                #expect(told["families"] == ["IPv4", "IPv6"])
            }
            let text = try knetd(
                "bgp", "routes", "--config", playground.configurationPath("node1"), in: playground.namespace("node1")
            ).output
            #expect(text.contains("advertised 10.42.1.0/24  to \(try #require(router.address))"), "\(text)")
        }
    }

    /// Who is killed and started again was never away for those who send packets.
    @Test(arguments: [TopOfRack.Make.frr, .bird]) func aKillAndRestartLosesNoPing(make: TopOfRack.Make) throws {
        var options = TopOfRack.Options()
        options.hasGracefulRestart = true
        try withRouter(make, options, nodes: 2) { _ in
            Self.bgp(options, ["import": [["cidr": "203.0.113.0/24"], ["cidr": "fd99::/64"]]])
        } _: {
            stage, router in
            let playground = stage.playground
            try Self.waitForSessions(playground)
            let target = try stage.address("a", .v4)
            try eventually(within: 5) { try stage.connect(from: "outside", to: target, port: 7007).server != nil }
            let outside = try playground.namespace("outside")
            let pings = Outcome()
            try DedicatedThread.start(name: "pings") {
                pings.set((try? shell("ping -n -q -i 0.01 -c 1000 -W 1 \(target)", in: outside)) ?? "failed")
            }
            usleep(500_000)
            func learnt() throws -> Bool {
                try shell("ip route show proto 108", in: playground.namespace("node1")).contains("203.0.113.0/24")
            }
            try eventually(within: 5) { try learnt() }
            for signal in [SIGKILL, SIGTERM] {
                try playground.stopDaemon("node1", signal: signal)
                usleep(500_000)
                #expect(try learnt(), "the kernel keeps what was learnt")
                try playground.startDaemon("node1")
                try playground.waitUntilReady("node1")
                #expect(try learnt(), "until it is told again")
                try Self.waitForSessions(playground)
            }
            // A reload is a restart.
            kill(playground.process(of: "node1"), SIGHUP)
            usleep(300_000)
            #expect(try learnt())
            try Self.waitForSessions(playground)
            // What it learnt stayed, and is told again.
            try eventually(within: 5) { try learnt() }
            try eventually(within: 25) { pings.text != nil }
            #expect(pings.text?.contains(" 0% packet loss") == true, "\(pings.text ?? "")")
            #expect(try router.gateways("10.42.1.0/24") == [#require(playground.address(of: "node1", .v4)).description])
        }
    }

    /// A node without power is out of the routes before a second is over, by BFD.
    @Test(arguments: [TopOfRack.Make.frr, .bird]) func aDeadNodeIsWithdrawnWithinASecond(make: TopOfRack.Make) throws {
        var options = TopOfRack.Options()
        options.hasBFD = true
        try withRouter(make, options, nodes: 2) { _ in
            Self.bgp(options, ["restartSeconds": 0, "bfd": ["interval": 100, "multiplier": 3]])
        } _: { stage, router in
            let playground = stage.playground
            try Self.waitForSessions(playground)
            let own = try #require(playground.address(of: "node2", .v4)).description
            try eventually(within: 5) { try router.gateways("10.42.2.0/24") == [own] }
            try eventually(within: 10) {
                try Self.peers("node2", playground).first?["bfd"]?.string?.hasPrefix("up") == true
            }
            _ = try shell("ip link set node2 down", in: playground.namespace("lan"))
            // The bridge port's routes go with BGP's session, not with the link: the bridge stays up.
            let milliseconds = try eventually(within: 1) { try router.gateways("10.42.2.0/24").isEmpty }
            print("\(make.rawValue): withdrawn after \(milliseconds) ms")
            try eventually(within: 2) {
                try Self.peers("node2", playground).first?["state"]?.string != "Established"
            }
            _ = try shell("ip link set node2 up", in: playground.namespace("lan"))
            try eventually(within: 15) { try router.gateways("10.42.2.0/24") == [own] }
        }
    }

    /// A full table, of which a part is allowed.
    @Test func aHundredThousandRoutesAreFilteredInTime() throws {
        var options = TopOfRack.Options()
        options.more = 100_000
        let allowed = 4_096
        try withRouter(.frr, options, nodes: 1) { _ in
            Self.bgp(options, ["import": [["cidr": "20.0.0.0/20"]]])
        } _: { stage, _ in
            let playground = stage.playground
            func memory() throws -> Int {
                let text = try shell(
                    "grep VmRSS /proc/\(playground.process(of: "node1"))/status", in: playground.namespace("node1"))
                return text.split(whereSeparator: \.isWhitespace).compactMap { Int($0) }.first ?? 0
            }
            let before = try memory()
            try Self.waitForSessions(playground, within: 60)
            var told: JSONValue = [:]
            let milliseconds = try eventually(within: 60) {
                told = try #require(Self.peers("node1", playground).first)
                return told["learnt"]?.integer == allowed
                    && told["filtered"]?.integer ?? 0 >= options.more + 4 - allowed
            }
            // With what it tells beside these, and the two ranges of this node that come back.
            #expect(told["filtered"]?.integer == options.more + 4 - allowed, "\(told)")
            try eventually(within: 10) {
                try metric("knetd_bgp_kernel_routes", of: "node1", playground) == Double(allowed)
            }
            let count = try shell("ip route show proto 108 | wc -l", in: playground.namespace("node1"))
            #expect(count == "\(allowed)\n")
            print("100,000 routes: \(milliseconds) ms from the session, \(try memory() - before) KiB more")
        }
    }

    /// Neither side names the other: the router listens for a range, and so does the node.
    @Test(arguments: [TopOfRack.Make.frr, .bird]) func neighboursNeedNotBeNamed(make: TopOfRack.Make) throws {
        var options = TopOfRack.Options()
        options.isDynamic = true
        try withRouter(make, options, nodes: 1) { _ in
            Self.bgp(options)
        } _: { stage, router in
            try Self.waitForSessions(stage.playground)
            try eventually(within: 5) { try !router.gateways("10.42.1.0/24").isEmpty }
        }
        options.isDynamic = false
        try withRouter(make, options, nodes: 1) { _ in
            let peer: JSONValue = ["range": "192.168.77.0/24", "as": 0, "holdSeconds": 9]
            return ["as": .integer(options.nodeAS), "peers": [peer]]
        } _: { stage, router in
            try Self.waitForSessions(stage.playground)
            try eventually(within: 5) { try !router.gateways("10.42.1.0/24").isEmpty }
            router.stop(signal: SIGKILL)
        }
    }

    /// What is wrong is told, and disturbs nothing else.
    @Test func whatIsWrongIsTold() throws {
        var options = TopOfRack.Options()
        options.password = "right"
        try withRouter(.bird, options, nodes: 2) { playground in
            let file = "\(playground.directory)/password"
            try Data("wrong\n".utf8).write(to: URL(fileURLWithPath: file))
            return Self.bgp(options, ["passwordFile": .string(file)], ["mesh": [:]])
        } _: { stage, router in
            let playground = stage.playground
            func reason(_ node: String = "node1") throws -> String {
                try Self.peers(node, playground).first { $0["peer"]?.string == "192.168.77.1" }?["lastDown"]?.string
                    ?? ""
            }
            func mesh() throws -> Bool {
                try Self.peers("node1", playground).contains {
                    $0["peer"]?.string == "192.168.77.12" && $0["state"]?.string == "Established"
                }
            }
            try eventually(within: 10) { try mesh() }
            // A wrong password is silence.
            try eventually(within: 25) { try reason().contains("no answer") }
            // The right one is taken up as soon as it is there.
            let file = "\(playground.directory)/password"
            try Data("right\n".utf8).write(to: URL(fileURLWithPath: file))
            try eventually(within: 20) { try !router.gateways("10.42.1.0/24").isEmpty }
            // A wrong AS is told by the one who sees it.
            try configure(
                "node1",
                [
                    plainRoutes.name: plainRoutes.settings, "serviceProxy": [:],
                    "bgp": Self.bgp(options, ["passwordFile": .string(file), "as": 64_999], ["mesh": [:]]),
                ], playground)
            try eventually(within: 15) { try reason().contains("peer AS") }
            try eventually(within: 10) { try mesh() }
            try eventually(within: 10) {
                let status = try knetd(
                    "status", "--config", playground.configurationPath("node1"), in: playground.namespace("node1")
                ).output
                return status.contains("peer 192.168.77.1 is") && status.contains("peer AS")
            }
            // And what is right works at last.
            try configure(
                "node1",
                [
                    plainRoutes.name: plainRoutes.settings, "serviceProxy": [:],
                    "bgp": Self.bgp(options, ["passwordFile": .string(file)], ["mesh": [:]]),
                ], playground)
            try eventually(within: 20) { try !router.gateways("10.42.1.0/24").isEmpty }
        }
    }

    /// Bytes that are no BGP, again and again: told, tried less and less often, and of no concern to other sessions.
    @Test func garbageDisturbsNobody() throws {
        let plugin = Self.bgp(TopOfRack.Options(), ["holdSeconds": 9], ["mesh": [:]])
        try withPlayground(nodes: 2, ["plugins": [plainRoutes.name: plainRoutes.settings, "bgp": plugin]]) {
            playground in
            let listener = try playground.namespace("lan").run { () throws -> SharedDescriptor in
                let socket = try Sockets.open(.v4, SOCK_STREAM, milliseconds: 200)
                Sockets.set(socket.number, Int(SOL_SOCKET), SO_REUSEADDR, 1)
                try Sockets.with(.v4(0), port: 179) { name, length in
                    _ = try syscall("bind") { bind(socket.number, name, length) }
                }
                try syscall("listen") { listen(socket.number, 16) }
                return SharedDescriptor(socket)
            }
            let count = Atomic(0)
            let deadline = ContinuousClock.now + .seconds(12)
            while ContinuousClock.now < deadline {
                guard let connection = Descriptor.accepted(from: listener.number) else { continue }
                count.add(1, ordering: .relaxed)
                try? Sockets.sendAll(connection.number, (0..<200).map { _ in UInt8.random(in: 0...254) })
                usleep(50_000)
            }
            let peers = try Self.peers("node1", playground)
            let garbage = try #require(peers.first { $0["peer"]?.string == "192.168.77.1" })
            #expect(garbage["lastDown"]?.string?.contains("synchronized") == true, "\(garbage)")
            let other = try #require(peers.first { $0["peer"]?.string == "192.168.77.12" })
            #expect(other["state"] == "Established" && other["flaps"] == 0, "\(other)")
            // Two nodes: at 0, 1, 3 and 7 seconds each, or a little sooner.
            #expect((4...12).contains(count.load(ordering: .relaxed)), "\(count.load(ordering: .relaxed)) connections")
        }
    }

    private final class Outcome: Sendable {
        private let held = Mutex<String?>(nil)
        var text: String? { held.withLock { $0 } }
        func set(_ text: String) { held.withLock { $0 = text } }
    }
}
