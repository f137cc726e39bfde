import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Services at the socket: what a client sees of them, and what becomes of it when daemons, endpoints and room go.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct SocketServiceTests {
    typealias Stage = ServiceStage

    private static func configuration(_ settings: JSONValue = [:]) -> JSONValue {
        ["plugins": ["ebpf": settings, "serviceProxy": [:]]]
    }

    /// What `knetd bpf` tells of Services.
    private static func told(_ stage: Stage, _ node: String = "node1") throws -> JSONValue {
        let outcome = try knetd(
            "bpf", "--json", "--config", stage.playground.configurationPath(node),
            in: stage.playground.namespace(node))
        try #require(outcome.status == 0, "\(outcome)")
        return try JSONValue(parsing: Data(outcome.output.utf8))["services"] ?? .null
    }

    private static func count(_ outcome: String, _ stage: Stage) throws -> Int {
        try told(stage)["sockets"]?.array?.first { $0["outcome"]?.string == outcome }?["count"]?.integer ?? -1
    }

    private static func faults(_ stage: Stage) throws -> [String] {
        (try stage.playground.status(of: "node1")["plugins"]?.array ?? []).flatMap { $0["faults"]?.array ?? [] }
            .compactMap(\.string)
    }

    /// Runs a script of Python's, with sockets that the tests' own tools do not make.
    private static func python(_ script: String, in namespace: NetworkNamespace) throws -> String {
        let outcome = try ChildProcess.run(
            "/usr/bin/python3", ["-c", "import socket, sys\nsocket.setdefaulttimeout(2)\n" + script], in: namespace)
        return (outcome.output + outcome.errors).split(separator: "\n").joined(separator: "; ")
    }

    /// Packets that took the way past the stack.
    private static func fast(_ stage: Stage) throws -> Int {
        let outcome = try knetd(
            "bpf", "--json", "--config", stage.playground.configurationPath("node1"),
            in: stage.playground.namespace("node1"))
        return try JSONValue(parsing: Data(outcome.output.utf8))["packets"]?.array?.first {
            $0["outcome"]?.string == "to_pod"
        }?["packets"]?.integer ?? -1
    }

    private static let kinds: [(kind: String, address: String)] = [
        ("AF_INET", "10.96.0.1"), ("AF_INET6", "fd96::1"), ("AF_INET6", "::ffff:10.96.0.1"),
    ]

    @Test(arguments: kinds) func aClientSeesTheServiceAndItsPacketsTheEndpoint(kind: String, address: String) throws {
        try withServices(Self.configuration(), nodes: 1, servers: [("a", "node1")]) { stage in
            let ports: [JSONValue] = [
                ["name": "t", "port": 80, "targetPort": 7007],
                ["name": "u", "port": 53, "targetPort": 7007, "protocol": "UDP"],
            ]
            try stage.put(
                [Stage.service("web", 1, ports: ports)]
                    + stage.slices(
                        "web", [.init(pod: "a")],
                        ports: [["name": "t", "port": 7007], ["name": "u", "port": 7007, "protocol": "UDP"]]))
            try stage.waitFor(1) { $0.server != nil }
            try eventually(within: 4) { try Self.count("connected", stage) > 0 }
            let (connected, fast) = (try Self.count("connected", stage), try Self.fast(stage))
            for client in ["c1", "node1"] {
                let namespace = try stage.playground.namespace(client)
                let stream = try Self.python(
                    """
                    s = socket.socket(socket.\(kind))
                    s.connect(('\(address)', 80))
                    peer = s.getpeername()[:2]
                    s.sendall(b'x'); s.shutdown(socket.SHUT_WR)
                    print(peer, len(s.recv(100)) > 0)
                    """, in: namespace)
                #expect(stream == "('\(address)', 80) True", "\(client)")
                let datagrams = try Self.python(
                    """
                    s = socket.socket(socket.\(kind), socket.SOCK_DGRAM)
                    for i in range(3):
                        s.sendto(b'abc', ('\(address)', 53))
                        text, peer = s.recvfrom(100)
                        print(text.decode(), peer[:2])
                    """, in: namespace)
                #expect(datagrams == Array(repeating: "abc ('\(address)', 53)", count: 3).joined(separator: "; "))
                let connection = try Self.python(
                    """
                    s = socket.socket(socket.\(kind), socket.SOCK_DGRAM)
                    s.connect(('\(address)', 53)); s.send(b'abc')
                    text, peer = s.recvfrom(100)
                    print(text.decode(), peer[:2], s.getpeername()[:2])
                    """, in: namespace)
                #expect(connection == "abc ('\(address)', 53) ('\(address)', 53)", "\(client)")
            }
            #expect(try Self.count("connected", stage) == connected + 4)
            // Nothing is translated: the pod's packets go past the stack.
            #expect(try Self.fast(stage) > fast + 10)
        }
    }

    /// Held by pins; by systemd, whose services have mounts of their own.
    private static let holders: [[String]] = [
        [], ["/usr/bin/python3", "\(Checkout.path)/Tests/service-manager.py", "/usr/bin/unshare", "--mount"],
    ]

    @Test(arguments: holders) func whatSocketsWereToldOutlastsTheDaemon(holder: [String]) throws {
        try withPlayground(nodes: 1, Self.configuration(), wrapper: holder) { playground in
            let stage = try ServiceStage(playground, servers: [("a", "node1")])
            defer { stage.stop() }
            let ports: [JSONValue] = [["port": 53, "targetPort": 7007, "protocol": "UDP"]]
            try stage.put(
                [Stage.service("dns", 1, ports: ports)]
                    + stage.slices("dns", [.init(pod: "a")], ports: [["port": 7007, "protocol": "UDP"]]))
            let namespace = try stage.playground.namespace("c1")
            let log = "\(stage.playground.directory)/client.log"
            try eventually(within: 4) {
                try Self.python(
                    "s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'a', ('10.96.0.1', 53)); print(s.recv(9))",
                    in: namespace) == "b'a'"
            }
            // One socket through two deaths: each answer comes from the Service.
            let client = try ChildProcess.start(
                "/usr/bin/python3",
                [
                    "-uc",
                    """
                    import socket, time
                    s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(1)
                    for i in range(150):
                        try:
                            s.sendto(b'a', ('10.96.0.1', 53)); print(s.recvfrom(9))
                        except Exception as e: print(e)
                        time.sleep(0.02)
                    """,
                ], in: namespace, log: log)
            for _ in 0..<2 {
                usleep(300_000)
                if holder.isEmpty {
                    try playground.stopDaemon("node1", signal: SIGKILL)
                    usleep(300_000)
                    try playground.startDaemon("node1")
                } else {
                    kill(playground.process(of: "node1"), SIGUSR1)
                    usleep(300_000)
                }
                try playground.waitUntilReady("node1")
            }
            waitpid(client, nil, 0)
            let lines = String(decoding: try KnetCore.contents(ofFile: log), as: UTF8.self).split(separator: "\n")
            #expect(lines.count == 150 && Set(lines) == ["(b'a', ('10.96.0.1', 53))"], "\(Set(lines))")
            #expect(try Self.told(stage)["mode"] == "at the socket")
        }
    }

    @Test func whatWasPinnedAndIsLostIsMadeAnew() throws {
        try withServices(Self.configuration(), nodes: 1, servers: [("a", "node1")]) { stage in
            try stage.put([Stage.service("web", 1)] + stage.slices("web", [.init(pod: "a")]))
            try stage.waitFor(1) { $0.server != nil }
            try stage.playground.stopDaemon("node1", signal: SIGKILL)
            _ = try shell(
                "rm \(stage.playground.directory)/node1/run/bpf/knet_*", in: stage.playground.namespace("node1"))
            // The rules serve meanwhile.
            try stage.waitFor(1) { $0.server != nil }
            try stage.playground.startDaemon("node1")
            let start = ContinuousClock.now
            try stage.playground.waitUntilReady("node1")
            try eventually(within: 1) {
                try stage.waitFor(1) { $0.server != nil }
                return try Self.count("connected", stage) > 0
            }
            print("made anew after \(ContinuousClock.now - start)")
            #expect(ContinuousClock.now - start < .seconds(1))
        }
    }

    /// As `deploy/overlays/ebpf` has it: what is pinned is in a folder of the node's that only the container has below its own.
    @Test func cleanupOnTheNodeEndsWhatAContainerPinned() throws {
        try withPlayground(nodes: 1, Self.configuration()) { playground in
            let (node, config) = (try playground.namespace("node1"), playground.configurationPath("node1"))
            try playground.stopDaemon("node1")
            #expect(try knetd("cleanup", "--config", config, in: node).status == 0)
            let (held, folder) = ("\(playground.directory)/held", "\(playground.directory)/node1/run/bpf")
            _ = try shell("mkdir -p \(held) && mount -t bpf test \(held) && mkdir \(held)/knetd", in: node)
            let script = "mkdir -p \(folder) && mount --bind \(held)/knetd \(folder) && exec \"$@\""
            try playground.startDaemon("node1", wrapper: ["unshare", "--mount", "sh", "-c", script, "sh"])
            try playground.waitUntilReady("node1")
            let stage = try ServiceStage(playground, servers: [])
            let server = try EchoServer(in: node)
            defer { server.stop() }
            try stage.put([Stage.service("web", 1)] + stage.slices("web", [.init(pod: "node1")]))
            try stage.waitFor(1, from: "node1") { $0.server != nil }
            try eventually(within: 4) {
                try stage.waitFor(1, from: "node1") { $0.server != nil }
                return try Self.count("connected", stage) > 0
            }
            try playground.stopDaemon("node1")
            _ = try shell("nft flush ruleset", in: node)
            try stage.waitFor(1, from: "node1") { $0.server != nil }
            #expect(FileManager.default.fileExists(atPath: "\(held)/knetd/knet_connect4"))
            #expect(try knetd("cleanup", "--config", config, in: node).status == 0)
            for family in IPFamily.allCases {
                #expect(try stage.connect(from: "node1", to: 1, family).server == nil)
            }
            #expect(!FileManager.default.fileExists(atPath: "\(held)/knetd"))
        }
    }

    @Test func switchedOffTheyEndAndTheRulesServe() throws {
        try withServices(Self.configuration(), nodes: 1, servers: [("a", "node1")]) { stage in
            try stage.put([Stage.service("web", 1)] + stage.slices("web", [.init(pod: "a")]))
            try stage.waitFor(1) { $0.server != nil }
            let folder = "\(stage.playground.directory)/node1/run/bpf"
            #expect(Mount.all().contains { $0.path == folder })
            try configure("node1", ["ebpf": ["socketServices": false], "serviceProxy": [:]], stage.playground)
            try eventually(within: 4) { !Mount.all().contains { $0.path == folder } }
            try eventually(within: 4) { try Self.told(stage) == .null }
            try stage.waitFor(1) { $0.server != nil }
            try configure("node1", ["ebpf": [:], "serviceProxy": [:]], stage.playground)
            try eventually(within: 4) { try Self.told(stage)["mode"] == "at the socket" }
            try eventually(within: 4) {
                try stage.waitFor(1) { $0.server != nil }
                return try Self.count("connected", stage) > 0
            }
        }
    }

    @Test func whereTheKernelRefusesThemTheRulesServe() throws {
        try withPlayground(nodes: 1, Self.configuration(), daemon: ["KNETD_BPF_REFUSE": "cgroup"]) { playground in
            let stage = try ServiceStage(playground, servers: [("a", "node1")])
            defer { stage.stop() }
            try stage.put([Stage.service("web", 1)] + stage.slices("web", [.init(pod: "a")]))
            try stage.waitFor(1) { $0.server != nil }
            #expect(
                try Self.faults(stage).contains("Services are served by nftables alone: refused by KNETD_BPF_REFUSE"))
            #expect(!Mount.all().contains { $0.path == "\(playground.directory)/node1/run/bpf" })
        }
    }

    @Test func whatHasNoRoomIsLeftToTheRules() throws {
        try withServices(Self.configuration(["frontends": 16]), nodes: 1, servers: [("a", "node1")]) { stage in
            let names = (1...12).map { "s\($0)" }
            try stage.put(
                names.enumerated().map { Stage.service($1, $0 + 1) }
                    + names.flatMap { try stage.slices($0, [.init(pod: "a")]) })
            for number in 1...12 { try stage.waitFor(number) { $0.server != nil } }
            try eventually(within: 4) {
                try Self.faults(stage).contains { $0.hasPrefix("Services are served by nftables alone: 10.96.0.") }
            }
            let faults = try Self.faults(stage)
            #expect(faults.contains { $0.hasSuffix("(it is full with 16 entries)") } && faults.count == 4, "\(faults)")
            #expect(
                try metric("knetd_bpf_socket_map_entries{map=\"knet_frontends\"}", of: "node1", stage.playground) == 16)
            // Where there is room again, it is used.
            try stage.put([Stage.service("s1", 1)] + stage.slices("s1", [.init(pod: "a")]))
            try eventually(within: 4) { try Self.faults(stage).isEmpty }
            try stage.waitFor(1) { $0.server != nil }
        }
    }

    /// What is kept of a socket is kept as long as it is open.
    @Test func closedSocketsTakeNoRoom() throws {
        try withServices(Self.configuration(), nodes: 1, servers: [("a", "node1")]) { stage in
            let ports: [JSONValue] = ["TCP", "UDP"].map {
                [
                    "name": .string($0), "port": 80, "targetPort": .integer(Int(EchoServer.longPort)),
                    "protocol": .string($0),
                ]
            }
            try stage.put(
                [Stage.service("web", 1, ports: ports)]
                    + stage.slices(
                        "web", [.init(pod: "a")],
                        ports: ["TCP", "UDP"].map {
                            ["name": .string($0), "port": .integer(Int(EchoServer.longPort)), "protocol": .string($0)]
                        }))
            try eventually(within: 4) {
                let entries = try metric(
                    "knetd_bpf_socket_map_entries{map=\"knet_frontends\"}", of: "node1", stage.playground)
                return entries == 4
            }
            func entries() throws -> Double {
                try metric("knetd_bpf_socket_map_entries{map=\"knet_connected\"}", of: "node1", stage.playground)
            }
            #expect(try entries() == 0)
            let log = "\(stage.playground.directory)/client.log"
            let client = try ChildProcess.start(
                "/usr/bin/python3",
                [
                    "-uc",
                    """
                    import socket, sys, time
                    kept = []
                    for family, address in ((socket.AF_INET, '10.96.0.1'), (socket.AF_INET6, 'fd96::1'), (socket.AF_INET6, '::ffff:10.96.0.1')):
                        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                            for i in range(20):
                                s = socket.socket(family, kind); s.settimeout(2); s.connect((address, 80))
                                kept.append(s) if i == 0 else s.close()
                    print('all')
                    time.sleep(1.5)
                    for s in kept: s.close()
                    print('none')
                    time.sleep(1.5)
                    """,
                ], in: stage.playground.namespace("c1"), log: log)
            defer { kill(client, SIGKILL) }
            func wait(for line: String) throws {
                try eventually(within: 5) {
                    try String(contentsOfFile: log, encoding: .utf8).split(separator: "\n").last == line[...]
                }
            }
            try wait(for: "all")
            #expect(try entries() == 6)
            try wait(for: "none")
            #expect(try entries() == 0)
        }
    }

    @Test func aConnectedDatagramSocketEndsWithItsEndpoint() throws {
        try withServices(Self.configuration(), nodes: 1, servers: [("a", "node1"), ("b", "node1")]) { stage in
            let ports: [JSONValue] = [["port": 53, "targetPort": 7007, "protocol": "UDP"]]
            let target: [JSONValue] = [["port": 7007, "protocol": "UDP"]]
            let service = Stage.service("dns", 1, ports: ports)
            try stage.put([service] + stage.slices("dns", [.init(pod: "a")], ports: target))
            let namespace = try stage.playground.namespace("c1")
            let query = "s.connect(('10.96.0.1', 53)); s.send(b'a'); print(s.recv(9))"
            try eventually(within: 4) {
                try Self.python("s = socket.socket(type=socket.SOCK_DGRAM); \(query)", in: namespace) == "b'a'"
            }
            let log = "\(stage.playground.directory)/client.log"
            let client = try ChildProcess.start(
                "/usr/bin/python3",
                [
                    "-uc",
                    """
                    import socket
                    s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(6)
                    \(query)
                    try: print(s.recv(9))
                    except Exception as e: print(type(e).__name__)
                    \(query)
                    """,
                ], in: namespace, log: log)
            try eventually(within: 3) { (try? KnetCore.contents(ofFile: log))?.isEmpty == false }
            try stage.put([service] + stage.slices("dns", [.init(pod: "b")], ports: target))
            waitpid(client, nil, 0)
            let lines = String(decoding: try KnetCore.contents(ofFile: log), as: UTF8.self).split(separator: "\n")
            #expect(lines == ["b'a'", "ConnectionAbortedError", "b'a'"])
        }
    }

    @Test func aFlowOfDatagramsStaysWithItsEndpointWhileOthersCome() throws {
        let pods = ["a", "b", "c", "d", "e"]
        try withServices(Self.configuration(), nodes: 1, servers: pods.map { ($0, "node1") }) { stage in
            let servers = try pods.map { pod in
                try ChildProcess.start(
                    "/usr/bin/python3",
                    [
                        "-c",
                        """
                        import socket
                        s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 7100))
                        while True: s.sendto(b'\(pod)', s.recvfrom(9)[1])
                        """,
                    ], in: stage.playground.namespace(pod), log: "\(stage.playground.directory)/\(pod).log")
            }
            defer { for server in servers { ChildProcess.end(server) } }
            let service = Stage.service("flow", 1, ports: [["port": 53, "targetPort": 7100, "protocol": "UDP"]])
            func put(_ pods: [String]) throws {
                let target: [JSONValue] = [["port": 7100, "protocol": "UDP"]]
                try stage.put([service] + stage.slices("flow", pods.map { .init(pod: $0) }, ports: target))
            }
            try put(["a"])
            let namespace = try stage.playground.namespace("c1")
            let ask = "s.sendto(b'?', ('10.96.0.1', 53)); print(s.recv(9).decode(), flush=True)"
            try eventually(within: 4) {
                try Self.python("s = socket.socket(type=socket.SOCK_DGRAM); \(ask)", in: namespace) == "a"
            }
            let log = "\(stage.playground.directory)/client.log"
            let client = try ChildProcess.start(
                "/usr/bin/python3",
                [
                    "-c",
                    """
                    import socket, time
                    s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(1)
                    for i in range(200):
                        \(ask)
                        time.sleep(0.02)
                    """,
                ], in: namespace, log: log)
            usleep(400_000)
            // From one slot to eight: nearly all of them have another endpoint.
            try put(pods)
            usleep(800_000)
            let others = Set(
                try Self.python(
                    "for i in range(40):\n    s = socket.socket(type=socket.SOCK_DGRAM); \(ask)", in: namespace
                ).split(separator: "; ").map(String.init))
            #expect(others == Set(pods))
            try put(Array(pods.dropFirst()))
            waitpid(client, nil, 0)
            let answers = String(decoding: try KnetCore.contents(ofFile: log), as: UTF8.self).split(separator: "\n")
            let stayed = answers.prefix { $0 == "a" }.count
            #expect(answers.count == 200 && stayed > 40 && stayed < 200, "\(answers)")
            #expect(Set(answers.dropFirst(stayed)).count == 1 && answers.last != "a", "\(answers)")
        }
    }

    /// The first Service is served by the rules, for its affinity: its place is not free for that.
    @Test func anotherServiceCannotTakeAnAddressThatTheRulesServe() throws {
        try withServices(Self.configuration(), nodes: 1, servers: [("a", "node1"), ("b", "node1")]) { stage in
            try stage.put(
                [
                    Stage.service("aa", 1, ["sessionAffinity": "ClientIP"]),
                    Stage.service("zz", 2, ["externalIPs": [.string(Stage.clusterIP(1, .v4))]]),
                ] + stage.slices("aa", [.init(pod: "a")]) + stage.slices("zz", [.init(pod: "b")]))
            try stage.waitFor(1) { $0.server != nil }
            try stage.waitFor(2) { $0.server != nil }
            try eventually(within: 4) { try Self.count("connected", stage) > 0 }
            let connected = try Self.count("connected", stage)
            for client in ["c1", "node1"] {
                #expect(try stage.connect(from: client, to: 1, .v4).server == stage.address("a", .v4))
            }
            #expect(try Self.count("connected", stage) == connected)
            // Where it is free, it is taken; and given back.
            let other = [Stage.service("zz", 2, ["externalIPs": [.string(Stage.clusterIP(1, .v4))]])]
            try stage.put(try other + stage.slices("zz", [.init(pod: "b")]))
            let b = try stage.address("b", .v4)
            try eventually(within: 4) { try stage.connect(from: "c1", to: 1, .v4).server == b }
            try stage.put(
                [Stage.service("aa", 1, ["sessionAffinity": "ClientIP"])] + other
                    + stage.slices("aa", [.init(pod: "a")]) + stage.slices("zz", [.init(pod: "b")]))
            let a = try stage.address("a", .v4)
            try eventually(within: 4) { try stage.connect(from: "c1", to: 1, .v4).server == a }
        }
    }
}
