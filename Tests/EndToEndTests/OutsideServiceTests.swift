import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Clients outside, whose packets to Services go past the host's stack. What they see of Services is in ServiceTests, over every
/// dataplane; here is which way it goes.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct OutsideServiceTests {
    private typealias Stage = ServiceStage

    private static func packets(_ outcome: String, _ node: String, _ stage: Stage) throws -> Double {
        try metric("knetd_bpf_packets_total{outcome=\"\(outcome)\"}", of: node, stage.playground)
    }

    /// A port for streams and datagrams alike, of a Service or its slices.
    private static func both(_ port: [String: JSONValue]) -> [JSONValue] {
        ["TCP", "UDP"].map { transport in
            .object(port.merging(["name": .string(transport), "protocol": .string(transport)]) { $1 })
        }
    }

    /// A node port and an external address that lead to these pods.
    private static func objects(
        _ pods: [String], _ stage: Stage, _ spec: [String: JSONValue] = [:]
    ) throws -> [JSONValue] {
        let external: JSONValue = ["198.51.100.7", "2001:db8:5::7"]
        return [
            Stage.service(
                "web", 1, ports: both(["port": 80, "targetPort": 7007, "nodePort": 30_080]),
                ["type": "NodePort", "externalIPs": external].merging(spec) { $1 })
        ] + (try stage.slices("web", pods.map { .init(pod: $0) }, ports: both(["port": 7007])))
    }

    @Test(arguments: ["vxlan", "direct"]) func outsideClientsGetToEndpointsPastTheStack(transport: String) throws {
        let plugins: JSONValue = ["ebpf": ["transport": .string(transport)], "serviceProxy": [:]]
        try withServices(["plugins": plugins]) { stage in
            for family in IPFamily.allCases {
                for (pod, isHere) in [("a", true), ("b", false)] {
                    try stage.put(Self.objects([pod], stage))
                    let external = try stage.ip(family == .v4 ? "198.51.100.7" : "2001:db8:5::7")
                    let node = try stage.address("node1", family)
                    let server = try stage.address(pod, family)
                    for (address, port) in [(node, 30_080), (external, 80)] as [(IPAddress, UInt16)] {
                        try eventually(within: 4) {
                            try stage.connect(from: "outside", to: address, port: port).server == server
                        }
                        // Over plain routes the rules ask other nodes' endpoints.
                        let isPast = isHere || transport == "vxlan"
                        let before = try (
                            Self.packets("to_endpoint", "node1", stage), Self.packets("to_client", "node1", stage)
                        )
                        for _ in 0..<5 {
                            let outcome = try stage.connect(from: "outside", to: address, port: port)
                            #expect(outcome.server == server)
                            // Who is on this node sees the client itself.
                            let outside = try stage.address("outside", family)
                            let seen = try isHere ? outside : isPast ? stage.own(family) : node
                            #expect(outcome.seen == seen, "\(address) to \(pod): \(outcome)")
                        }
                        let after = try (
                            Self.packets("to_endpoint", "node1", stage), Self.packets("to_client", "node1", stage)
                        )
                        if isPast {
                            #expect(after.0 >= before.0 + 10 && after.1 >= before.1 + 10)
                        } else {
                            #expect(after == before)
                        }
                        // Large transfers both ways, and datagrams.
                        let prober = Prober(try stage.playground.namespace("outside"), port: port)
                        for _ in 0..<3 { try prober.stream(address, bytes: 1 << 20) }
                        for _ in 0..<3 { try prober.datagram(address, bytes: 1_000) }
                    }
                }
            }
        }
    }

    /// The one endpoint's node answers, from the Service's address.
    @Test func withDirectReturnTheEndpointSeesTheClient() throws {
        let plugins: JSONValue = ["ebpf": ["directReturn": true], "serviceProxy": [:]]
        try withServices(["plugins": plugins]) { stage in
            try stage.put(Self.objects(["b"], stage))
            for family in IPFamily.allCases {
                let external = try stage.ip(family == .v4 ? "198.51.100.7" : "2001:db8:5::7")
                let (server, outside) = try (stage.address("b", family), stage.address("outside", family))
                try eventually(within: 4) {
                    try stage.connect(from: "outside", to: external) == .answered(by: server, seen: outside)
                }
                let (before, own) = try (
                    Self.packets("to_client", "node2", stage), Self.packets("to_client", "node1", stage)
                )
                for _ in 0..<5 {
                    #expect(
                        try stage.connect(from: "outside", to: external) == .answered(by: server, seen: outside))
                }
                #expect(try Self.packets("to_client", "node2", stage) >= before + 20)
                #expect(try Self.packets("to_client", "node1", stage) == own)
                // A node's own address is no other's: it translates.
                let node = try stage.address("node1", family)
                #expect(try stage.connect(from: "outside", to: node, port: 30_080).server == server)
            }
        }
    }

    /// A client whose endpoint is there stays with it when others come and go.
    @Test func connectionsStayWhereTheyAreWhileEndpointsChange() throws {
        try withServices(["plugins": ["ebpf": [:], "serviceProxy": [:]]]) { stage in
            try stage.put(Self.objects(["a"], stage))
            let node = try stage.address("node1", .v4)
            let ports: [JSONValue] = [["name": "long", "port": 81, "targetPort": 7008, "nodePort": 30_081]]
            let long = Stage.service("long", 2, ports: ports, ["type": "NodePort"])
            // So that rules for a single endpoint are always needed.
            let one = Stage.service("one", 3, ports: Self.both(["port": 80, "targetPort": 7007]))
            func put(_ pods: [String], ending: [String] = []) throws {
                let ends = pods.map { pod in
                    Stage.End(
                        pod: pod,
                        conditions: ending.contains(pod) ? ["ready": false, "serving": true, "terminating": true] : [:])
                }
                try stage.put(
                    Self.objects(pods, stage) + [long, one]
                        + stage.slices("one", [.init(pod: "a")], ports: Self.both(["port": 7007]))
                        + stage.slices(
                            "long", ends,
                            ports: [["name": "long", "port": .integer(Int(EchoServer.longPort))]]))
            }
            try put(["a"])
            try eventually(within: 4) {
                try stage.connect(from: "outside", to: node, port: 30_080).server == stage.address("a", .v4)
            }
            try eventually(within: 4) {
                try metric("knetd_bpf_map_entries{map=\"knet_outside\"}", of: "node1", stage.playground) >= 6
            }
            let stream = try StreamClient(to: node, port: 30_081, in: stage.playground.namespace("outside"))
            try stream.exchange(bytes: 1_000)
            for pods in [["a", "b"], ["a"], ["a", "b"]] {
                try put(pods)
                for _ in 0..<10 {
                    try stream.exchange(bytes: 1_000)
                    usleep(20_000)
                }
            }
            // And through the daemon's death, once it has done what there was to do.
            func writes() throws -> Double {
                try metric("knetd_kernel_writes_total", of: "node1", stage.playground)
            }
            try eventually(within: 5) {
                let before = try writes()
                usleep(300_000)
                return try writes() == before
            }
            try stage.playground.stopDaemon("node1", signal: SIGKILL)
            try stream.exchange(bytes: 1_000)
            #expect(try stage.connect(from: "outside", to: node, port: 30_080).server != nil)
            try stage.playground.startDaemon("node1")
            try stage.playground.waitUntilReady("node1")
            try stream.exchange(bytes: 1_000)
            #expect(try writes() == 0, "\(stage.playground.log(of: "node1"))")
            // A stream goes on while its endpoint ends. Who waits for one that is gone learns of it.
            try put(["a", "b"], ending: ["a"])
            for _ in 0..<10 {
                try stream.exchange(bytes: 1_000)
                usleep(20_000)
            }
            try put(["b"])
            try eventually(within: 4) { (try? stream.exchange(bytes: 1_000)) == nil }
            try eventually(within: 4) {
                try stage.connect(from: "outside", to: node, port: 30_080).server == stage.address("b", .v4)
            }
        }
    }

    /// A client that sends datagrams from one port for ever.
    @Test func datagramsGoElsewhereWhenTheirEndpointGoes() throws {
        try withServices(["plugins": ["ebpf": [:], "serviceProxy": [:]]]) { stage in
            let ports: [JSONValue] = [["port": 53, "targetPort": 7007, "nodePort": 30_053, "protocol": "UDP"]]
            func put(_ pod: String) throws {
                try stage.put(
                    [Stage.service("dns", 1, ports: ports, ["type": "NodePort"])]
                        + stage.slices("dns", [.init(pod: pod)], ports: [["port": 7007, "protocol": "UDP"]]))
            }
            try put("a")
            let node = try stage.address("node1", .v4)
            let outside = try stage.playground.namespace("outside")
            try eventually(within: 4) {
                try? Prober(outside, port: 30_053, milliseconds: 300).datagram(node, bytes: 10)
                return try Self.packets("to_endpoint", "node1", stage) > 0
            }
            let log = "\(stage.playground.directory)/client.log"
            let client = try ChildProcess.start(
                "/usr/bin/python3",
                [
                    "-uc",
                    """
                    import socket, time
                    s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(0.2)
                    s.connect(('\(node)', 30053))
                    for i in range(100):
                        s.send(b'x')
                        try: print('answer', s.recv(9))
                        except Exception as e: print(e)
                        time.sleep(0.02)
                    """,
                ], in: outside, log: log)
            usleep(600_000)
            try stage.playground.deletePod("a")
            try put("b")
            try eventually(within: 10) { kill(client, 0) != 0 || waitpid(client, nil, WNOHANG) == client }
            let lines = try String(contentsOfFile: log, encoding: .utf8).split(separator: "\n")
            #expect(lines.count == 100)
            #expect(lines.suffix(20).allSatisfy { $0.hasPrefix("answer") }, "\(lines)")
            #expect(lines.count { !$0.hasPrefix("answer") } < 10, "\(lines)")
        }
    }

    /// The oldest connections are forgotten; those in use are not.
    @Test func moreConnectionsThanThereIsRoomFor() throws {
        try withServices(
            ["plugins": ["ebpf": ["translations": 1024], "serviceProxy": [:]]], nodes: 1, servers: [("a", "node1")]
        ) { stage in
            let port: JSONValue = ["port": 80, "targetPort": .integer(Int(EchoServer.longPort)), "nodePort": 30_081]
            try stage.put(
                Self.objects(["a"], stage) + [Stage.service("long", 2, ports: [port], ["type": "NodePort"])]
                    + stage.slices("long", [.init(pod: "a")], ports: [["port": .integer(Int(EchoServer.longPort))]]))
            let outside = try stage.playground.namespace("outside")
            let nodes = try IPFamily.allCases.map { try stage.address("node1", $0) }
            try eventually(within: 4) {
                for node in nodes { _ = try? StreamClient(to: node, port: 30_081, in: outside).exchange(bytes: 10) }
                return try metric("knetd_bpf_map_entries{map=\"knet_translated\"}", of: "node1", stage.playground) >= 4
            }
            let lasting = try nodes.map { try StreamClient(to: $0, port: 30_081, in: outside) }
            let prober = Prober(outside, port: 30_080)
            for number in 0..<1_000 {
                for node in nodes { _ = try prober.answer(node) }
                if number % 20 == 0 { for stream in lasting { try stream.exchange(bytes: 1_000) } }
            }
            for stream in lasting { try stream.exchange(bytes: 10_000) }
            let entries = try metric("knetd_bpf_map_entries{map=\"knet_translated\"}", of: "node1", stage.playground)
            #expect(entries > 500 && entries <= 1024)
            let faults = (try stage.playground.status(of: "node1")["plugins"]?.array ?? [])
                .flatMap { $0["faults"]?.array ?? [] }.compactMap(\.string)
            #expect(faults.contains { $0.contains("map knet_translated is full") }, "\(faults)")
        }
    }

    /// What has no room, or needs more than the programs can, is served by the rules.
    @Test func theRulesServeTheRest() throws {
        try withServices(
            ["plugins": ["ebpf": ["slots": 16], "serviceProxy": [:]]], nodes: 1, servers: [("a", "node1")]
        ) {
            stage in
            try stage.put(Self.objects(["a"], stage))
            let node = try stage.address("node1", .v4)
            try eventually(within: 4) { try stage.connect(from: "outside", to: node, port: 30_080).server != nil }
            #expect(try Self.packets("to_endpoint", "node1", stage) == 0)
            let faults = (try stage.playground.status(of: "node1")["plugins"]?.array ?? [])
                .flatMap { $0["faults"]?.array ?? [] }.compactMap(\.string)
            #expect(faults.contains { $0.contains("clients outside are served by nftables alone") }, "\(faults)")
        }
        try withServices(["plugins": ["ebpf": [:], "serviceProxy": [:]]], nodes: 1, servers: [("a", "node1")]) {
            stage in
            try stage.put(Self.objects(["a"], stage, ["sessionAffinity": "ClientIP"]))
            let node = try stage.address("node1", .v4)
            try eventually(within: 4) { try stage.connect(from: "outside", to: node, port: 30_080).server != nil }
            #expect(try Self.packets("to_endpoint", "node1", stage) == 0)
            try stage.put(Self.objects(["a"], stage))
            try eventually(within: 4) {
                _ = try stage.connect(from: "outside", to: node, port: 30_080)
                return try Self.packets("to_endpoint", "node1", stage) > 0
            }
        }
    }
}

extension ServiceStage {
    /// What the first node asks other nodes' pods from: the first address of its range.
    fileprivate func own(_ family: IPFamily) throws -> IPAddress {
        CIDR(containing: try address("c1", family), prefixLength: family == .v4 ? 24 : 64).base
    }
}
