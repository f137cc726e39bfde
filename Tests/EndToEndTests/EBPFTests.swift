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

    /// Pods of which the policies know; c is on the second node.
    private static func addPods(_ names: [String], _ playground: Playground) throws {
        for pod in names {
            let node = pod == "c" ? "node2" : "node1"
            let ips = try playground.addPod(pod, node: node).map { "{ip: \"\($0)\"}" }.joined(separator: ", ")
            let object =
                "{apiVersion: v1, kind: Pod, metadata: {name: \(pod), namespace: default, labels: {app: \(pod)}}, "
                + "spec: {nodeName: \(node)}, status: {podIPs: [\(ips)]}}"
            try Data(object.utf8).write(to: URL(fileURLWithPath: "\(playground.manifests)/\(pod).yaml"))
        }
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

    /// A program that reads beyond what it has looked at.
    @Test func whatTheVerifierSaysIsInStatusAndLog() throws {
        try withPlayground(nodes: 1, Self.plugins([:], ["serviceProxy": [:]])) { playground in
            let objects = try ProgramSources.build(
                in: "\(playground.directory)/objects",
                editing:
                    "sed -i '/^int knet_from_pod/{n;s/.*/{ if (*(char *)(long)skb->data) return 0;/}' path.bpf.c")
            try playground.stopDaemon("node1")
            try playground.startDaemon("node1", environment: ["KNETD_BPF_OBJECTS": objects])
            try playground.waitUntilReady("node1")
            let said = "invalid access to packet"
            let status = try knetd(
                "status", "--config", playground.configurationPath("node1"), in: playground.namespace("node1"))
            #expect(status.output.contains("go through the host's stack") && status.output.contains(said), "\(status)")
            #expect(playground.log(of: "node1").contains(said))
            #expect(try Self.programs("node1", playground) == 0, "those of the daemon before are taken away")
            try playground.addPod("a", node: "node1")
            let peer = try playground.addPod("b", node: "node1")
            for address in peer { _ = try Prober(playground.namespace("a")).ping(address) }
        }
    }

    /// The oldest connections are forgotten, which are the stack's then: none fails, those that last included.
    @Test(arguments: [false, true]) func moreConnectionsThanThereIsRoomFor(isPoliced: Bool) throws {
        let policies: [String: JSONValue] = isPoliced ? ["networkPolicy": [:]] : [:]
        try withPlayground(nodes: 1, Self.plugins(["flows": 1024], policies)) { playground in
            try Self.addPods(["a", "b"], playground)
            let peer = playground.addresses(of: "b")
            let server = try EchoServer(in: playground.namespace("b"))
            defer { server.stop() }
            let pod = try playground.namespace("a")
            let lasting = try peer.map { try StreamClient(to: $0, port: EchoServer.longPort, in: pod) }
            let prober = Prober(pod)
            for _ in 0..<2_000 {
                for address in peer { _ = try prober.answer(address) }
            }
            for stream in lasting { try stream.exchange(bytes: 10_000) }
            let entries = try metric("knetd_bpf_map_entries{map=\"knet_flows\"}", of: "node1", playground)
            #expect(entries > 500 && entries <= 1024)
            let status = try knetd(
                "status", "--config", playground.configurationPath("node1"), in: playground.namespace("node1"))
            #expect(status.output.contains("map knet_flows is full"), "\(entries): \(status)")
            // What is over goes, and the line with it.
            try eventually(within: 25) {
                try metric("knetd_bpf_map_entries{map=\"knet_flows\"}", of: "node1", playground) < 500
            }
            #expect(try Self.bpf("node1", playground)["faults"] == [])
        }
    }

    /// Datagrams in pieces are the stack's, and get there.
    @Test func datagramsInPiecesGetThereByTheStack() throws {
        try withPlayground(nodes: 2, Self.plugins()) { playground in
            try playground.addPod("a", node: "node1")
            let peers = try playground.addPod("b", node: "node1") + playground.addPod("c", node: "node2")
            let servers = try ["b", "c"].map { try EchoServer(in: playground.namespace($0)) }
            defer { for server in servers { server.stop() } }
            for address in peers {
                let before = try Self.packets("stack_header", "node1", playground)
                try Prober(playground.namespace("a")).datagram(address, bytes: 4_000)
                #expect(try Self.packets("stack_header", "node1", playground) >= before + 3, "\(address)")
            }
        }
    }

    /// Nobody may connect to the client, and the servers to nobody: an answer is lost at each node, those of what is asked next are not,
    /// from whatever port.
    @Test func largeAnswersReachWhomNobodyMayConnectTo() throws {
        try withPlayground(nodes: 2, Self.plugins([:], ["networkPolicy": [:]])) { playground in
            try Self.addPods(["a", "b", "c"], playground)
            let closed = """
                {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: client, namespace: default},
                 spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress]}}
                ---
                {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: servers, namespace: default},
                 spec: {podSelector: {matchExpressions: [{key: app, operator: In, values: [b, c]}]}, policyTypes: [Egress]}}
                """
            try Data(closed.utf8).write(to: URL(fileURLWithPath: "\(playground.manifests)/closed.yaml"))
            let server = """
                import socket
                s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 5300))
                while True:
                    query, peer = s.recvfrom(9)
                    s.sendto(b'x' * (4000 if query == b'large' else 10), peer)
                """
            let servers = try ["b", "c"].map {
                try ChildProcess.start(
                    "/usr/bin/python3", ["-c", server], in: playground.namespace($0),
                    log: "\(playground.directory)/server.log")
            }
            defer { for server in servers { kill(server, SIGKILL) } }
            func ask(_ address: IPAddress, _ query: String) throws -> String {
                let client = """
                    import socket
                    s = socket.socket(socket.AF_INET\(address.family == .v6 ? "6" : ""), socket.SOCK_DGRAM); s.settimeout(1)
                    s.sendto(b'\(query)', ('\(address)', 5300))
                    try: print(len(s.recv(9999)))
                    except TimeoutError: print(0)
                    """
                return try ChildProcess.run("/usr/bin/python3", ["-c", client], in: playground.namespace("a")).output
            }
            for peer in ["b", "c"] {
                for address in playground.addresses(of: peer) {
                    // Once its questions go past the stack.
                    try eventually(within: 10) {
                        let before = try Self.packets("stack_policy", "node1", playground)
                        return try ask(address, "small") == "10\n"
                            && Self.packets("stack_policy", "node1", playground) == before
                    }
                    let sizes = try (0..<4).map { _ in try ask(address, "large") }
                    let lost = peer == "c" ? 2 : 1
                    #expect(sizes.dropFirst(lost).allSatisfy { $0 == "4000\n" }, "\(address): \(sizes)")
                }
            }
        }
    }

    /// The kernel has taken a frame's tag off its bytes before the programs see it.
    @Test func taggedFramesAreTheStacks() throws {
        try withPlayground(nodes: 1, Self.plugins()) { playground in
            try playground.addPod("a", node: "node1")
            let peer = try playground.addPod("b", node: "node1").filter { $0.family == .v4 }[0]
            func send(_ tag: String) throws {
                let script = """
                    import socket, struct, subprocess
                    read = lambda name: open('/sys/class/net/eth0/' + name).read().strip()
                    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); raw.bind(('eth0', 0))
                    line = subprocess.run(['ip', 'neighbour'], capture_output=True, text=True).stdout.split()
                    router = bytes.fromhex(line[line.index('lladdr') + 1].replace(':', ''))
                    own = raw.getsockname()[4]
                    ip = socket.inet_aton('\(playground.addresses(of: "a").first { $0.family == .v4 }!)')
                    udp = struct.pack('>HHHH', 1000, 1000, 12, 0) + b'abcd'
                    head = struct.pack('>BBHHHBBH', 0x45, 0, 32, 1, 0, 64, 17, 0) + ip + socket.inet_aton('\(peer)')
                    total = sum(struct.unpack('>10H', head)); total = (total & 65535) + (total >> 16)
                    head = head[:10] + struct.pack('>H', ~total & 65535) + head[12:]
                    for _ in range(10): raw.send(router + own + bytes.fromhex('\(tag)') + b'\\x08\\x00' + head + udp)
                    """
                let outcome = try ChildProcess.run("/usr/bin/python3", ["-c", script], in: playground.namespace("a"))
                try #require(outcome.status == 0, "\(outcome)")
            }
            // The pod learns its router's address.
            _ = try Prober(playground.namespace("a")).ping(peer)
            for (tag, outcome) in [("", "to_pod"), ("81000007", "stack_other"), ("88a80007", "stack_other")] {
                let before = try ["to_pod", outcome].map { try Self.packets($0, "node1", playground) }
                try send(tag)
                let after = try ["to_pod", outcome].map { try Self.packets($0, "node1", playground) }
                #expect(after[1] >= before[1] + 10, "\(tag): \(before), \(after)")
                if outcome != "to_pod" { #expect(after[0] == before[0], "\(tag)") }
            }
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
            try Self.addPods(["a", "b", "c"], playground)
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
            #expect(answer["programs"] == [], "\(answer)")
        }
    }

    /// Flows go on while the programs come and go.
    /// Programs stay where they are over a restart: `knetd bpf` tells of these, not of the copies that the next daemon loads.
    @Test func programsAreToldOfAsTheyAreAttached() throws {
        try withPlayground(nodes: 1, Self.plugins()) { playground in
            try playground.addPod("a", node: "node1")
            let (path, node) = (playground.configurationPath("node1"), try playground.namespace("node1"))
            func told() throws -> [JSONValue] {
                let outcome = try knetd("bpf", "--json", "--config", path, in: node)
                return try JSONValue(parsing: Data(outcome.output.utf8))["programs"]?.array ?? []
            }
            try eventually(within: 4) { try told().contains { $0["name"]?.string == "knet_from_pod" } }
            let before = try told()
            #expect(before.allSatisfy { $0["links"]?.array?.isEmpty == false })
            try playground.stopDaemon("node1", signal: SIGKILL)
            try playground.startDaemon("node1")
            try playground.waitUntilReady("node1")
            #expect(try told() == before)
        }
    }

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
