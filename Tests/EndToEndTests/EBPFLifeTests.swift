import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport
import Testing

@testable import EBPFPlugin

/// The programs are killed with their daemon, replaced by others and given other maps, while connections begin and streams run.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct EBPFLifeTests {
    /// New connections, and streams that last, until `stop`.
    private final class Traffic: Sendable {
        private let failures = Mutex<[String]>([])
        let connections = Atomic(0)
        let exchanges = Atomic(0)
        private let running = Atomic(0)
        private let heard = Mutex<[String: ContinuousClock.Instant]>([:])
        private let isStopped = Atomic(false)
        private let start = ContinuousClock.now
        /// Milliseconds that a connection may take: less than TCP waits before it sends a SYN again, where no packet is to be lost either.
        let patience = Atomic(900)

        /// Connections that were begun and ended a second, until now.
        var rate: Double {
            Double(connections.load(ordering: .relaxed)) / ((ContinuousClock.now - start) / .seconds(1))
        }

        /// - Parameters:
        ///   - targets: addresses and ports of `EchoServer`s, or of a Service's.
        ///   - rate: connections a second.
        init(
            from pod: NetworkNamespace, to targets: [(IPAddress, UInt16)], rate: Double = 300,
            streams: [(IPAddress, UInt16)]
        ) throws {
            for (address, port) in targets {
                try repeatedly("connection to \(address)", every: .seconds(Double(targets.count) / rate)) { [self] in
                    let patience = patience.load(ordering: .relaxed)
                    _ = try Prober(pod, port: port, milliseconds: patience).answer(address, bytes: 100)
                    connections.add(1, ordering: .relaxed)
                }
            }
            for (address, port) in streams {
                let stream = try StreamClient(to: address, port: port, in: pod)
                try repeatedly("stream to \(address)", every: .milliseconds(2)) { [self] in
                    try stream.exchange(bytes: 1_000)
                    exchanges.add(1, ordering: .relaxed)
                }
            }
        }

        /// A stream on which its server alone speaks, all the time.
        /// - Parameter address: of the pod that serves.
        func listen(_ pod: NetworkNamespace, to address: IPAddress, in server: NetworkNamespace) throws {
            let port: UInt16 = address.family == .v4 ? 7100 : 7101
            let any: IPAddress = address.family == .v4 ? .v4(0) : .v6(0)
            let listener = try server.run { () throws -> SharedDescriptor in
                let socket = try Sockets.open(address.family, SOCK_STREAM, milliseconds: 2_000)
                try Sockets.with(any, port: port) { name, length in
                    _ = try syscall("bind") { bind(socket.number, name, length) }
                }
                _ = try syscall("listen") { Glibc.listen(socket.number, 1) }
                return SharedDescriptor(socket)
            }
            let client = try pod.run { () throws -> SharedDescriptor in
                let socket = try Sockets.open(address.family, SOCK_STREAM, milliseconds: 500)
                try Sockets.connect(socket.number, to: address, port: port)
                return SharedDescriptor(socket)
            }
            guard let accepted = Descriptor.accepted(from: listener.number) else {
                throw Playground.Failure("\(address) accepts nobody")
            }
            let peer = SharedDescriptor(accepted)
            try repeatedly("words of \(address)", every: .milliseconds(5)) {
                withExtendedLifetime(listener) {}
                try Sockets.sendAll(peer.number, [7])
            }
            // What the stack drops while there are no programs comes again, later each time.
            let name = "\(address)"
            heard.withLock { $0[name] = .now }
            try repeatedly("silence of \(address)", every: .zero) { [self] in
                var bytes = [UInt8](repeating: 0, count: 1_000)
                let count = recv(client.number, &bytes, bytes.count, 0)
                if count > 0 {
                    heard.withLock { $0[name] = .now }
                    exchanges.add(1, ordering: .relaxed)
                } else if count == 0, !isStopped.load(ordering: .relaxed) {
                    throw Playground.Failure("the connection was closed")
                }
                guard isHeard(since: .now - .seconds(8), name) else { throw Playground.Failure("8 s") }
            }
        }

        /// Whether servers that alone speak, or the named one, were heard since then.
        func isHeard(since moment: ContinuousClock.Instant, _ name: String? = nil) -> Bool {
            heard.withLock { heard in heard.allSatisfy { (name ?? $0.key) != $0.key || $0.value > moment } }
        }

        /// - Parameter interval: from one beginning to the next; what was late is made up for.
        private func repeatedly(_ name: String, every interval: Duration, _ body: @escaping () throws -> Void) throws {
            nonisolated(unsafe) let body = body
            running.add(1, ordering: .relaxed)
            try DedicatedThread.start(name: "traffic") { [self] in
                var next = ContinuousClock.now
                while !isStopped.load(ordering: .relaxed) {
                    do { try body() } catch {
                        let time = ContinuousClock.now - start
                        failures.withLock { $0.append("\(name), after \(time): \(error)") }
                        break
                    }
                    next += interval
                    let early = next - .now
                    if early > .zero { usleep(UInt32(early / .microseconds(1))) }
                }
                running.subtract(1, ordering: .relaxed)
            }
        }

        func stop() -> [String] {
            isStopped.store(true, ordering: .relaxed)
            for _ in 0..<3_000 where running.load(ordering: .relaxed) > 0 { usleep(1_000) }
            return failures.withLock { $0 }
        }
    }

    /// What identifies the programs at work on a node's devices.
    private static func tags(_ node: String, _ playground: Playground) throws -> Set<[UInt8]> {
        try playground.namespace(node).run {
            let hooks = ProgramHooks(refused: [])
            return Set(try NetlinkSocket().links().flatMap { hooks.attached(to: $0.index).map(\.info.tag) })
        }
    }

    /// Of which policies know.
    private static func pods(_ playground: Playground) -> [JSONValue] {
        ["a", "b", "c1", "c2"].map { pod in
            let ips = playground.addresses(of: pod).map { JSONValue.object(["ip": .string("\($0)")]) }
            return [
                "kind": "Pod", "apiVersion": "v1",
                "metadata": ["name": .string(pod), "labels": ["app": .string(pod)]],
                "spec": ["nodeName": .string(playground.node(of: pod) ?? "")], "status": ["podIPs": .array(ips)],
            ]
        }
    }

    /// The servers connect to nobody, and nobody connects to their client: only who began a connection may.
    private static let closed: [JSONValue] = [
        [
            "kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "metadata": ["name": "servers"],
            "spec": [
                "podSelector": ["matchExpressions": [["key": "app", "operator": "In", "values": ["a", "b"]]]],
                "policyTypes": ["Egress"],
            ],
        ],
        [
            "kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "metadata": ["name": "client"],
            "spec": ["podSelector": ["matchLabels": ["app": "c1"]], "policyTypes": ["Ingress"]],
        ],
    ]

    @Test(arguments: [false, true]) func nothingFailsThroughKillsUpgradesAndOtherMaps(isPoliced: Bool) throws {
        let policies: [String: JSONValue] = isPoliced ? ["networkPolicy": [:]] : [:]
        func plugins(_ settings: JSONValue) -> JSONValue {
            .object(["ebpf": settings, "serviceProxy": [:]].merging(policies) { $1 })
        }
        let servers = [("a", "node1"), ("b", "node2")]
        try withServices(["plugins": plugins([:])], servers: servers) { stage in
            let playground = stage.playground
            // As another compiler's options make them: other instructions, the same maps. And with more in what is known of a connection.
            let objects = try ProgramSources.build(in: "\(playground.directory)/objects")
            let larger = try ProgramSources.build(
                in: "\(playground.directory)/larger",
                editing: [("flow", 96), ("translation", 80)].map { name, bytes in
                    "sed -i '/^struct knet_\(name) {/,/^};/s/^};/__u64 more; };/; s/knet_\(name)) == \(bytes)/knet_\(name)) == \(bytes + 8)/' include/knet.h"
                }.joined(separator: " && "))
            let pods = [Stage.End(pod: "a"), Stage.End(pod: "b")]
            func nodePort(_ name: String, _ number: Int, to port: Int) throws -> [JSONValue] {
                let ports: JSONValue = [
                    "port": 80, "targetPort": .integer(port), "nodePort": .integer(30_080 + number),
                ]
                return [Stage.service(name, number, ports: [ports], ["type": "NodePort"])]
                    + (try stage.slices(name, pods, ports: [["port": .integer(port)]]))
            }
            try stage.put(
                Self.pods(playground) + (isPoliced ? Self.closed : []) + nodePort("web", 1, to: 7007)
                    + nodePort("long", 2, to: Int(EchoServer.longPort)))
            try stage.waitFor(1) { $0.server != nil }
            try eventually(within: 5) {
                try Self.settled(stage)
            }
            let ends = try IPFamily.allCases.flatMap { family -> [(address: IPAddress, port: UInt16)] in
                try ["a", "b"].map { (try stage.address($0, family), EchoServer.port) }
                    + [(try stage.ip(Stage.clusterIP(1, family)), 80)]
            }
            let streams = ends.filter { $0.port != 80 }.map { ($0.address, EchoServer.longPort) }
            let traffic = try Traffic(from: playground.namespace("c1"), to: ends, streams: streams)
            defer { _ = traffic.stop() }
            for family in IPFamily.allCases {
                for server in ["a", "b"] {
                    try traffic.listen(
                        playground.namespace("c1"), to: stage.address(server, family), in: playground.namespace(server))
                }
            }
            // Clients outside, of which some get to either endpoint.
            let nodes = try IPFamily.allCases.map { try stage.address("node1", $0) }
            let others = try Traffic(
                from: playground.namespace("outside"), to: nodes.map { ($0, 30_081) }, rate: 100,
                streams: nodes.flatMap { node in (0..<6).map { _ in (node, 30_082) } })
            defer { _ = others.stop() }
            usleep(500_000)
            let first = try Self.tags("node1", playground)

            /// Ends both daemons, and starts them over.
            func replace(signal: Int32, _ environment: [String: String] = [:]) throws {
                for node in playground.nodeNames { try playground.stopDaemon(node, signal: signal) }
                usleep(200_000)
                for node in playground.nodeNames { try playground.startDaemon(node, environment: environment) }
                for node in playground.nodeNames { try playground.waitUntilReady(node) }
                usleep(300_000)
            }
            try replace(signal: SIGKILL)
            try replace(signal: SIGTERM)
            #expect(try Self.tags("node1", playground) == first)
            try replace(signal: SIGKILL, ["KNETD_BPF_OBJECTS": objects])
            let second = try Self.tags("node1", playground)
            #expect(second.isDisjoint(with: first) && second.count == first.count, "other programs are at work")
            try replace(signal: SIGTERM)
            #expect(try Self.tags("node1", playground) == first)
            // A connection whose two ways meet programs with different maps begins a second time.
            for clients in [traffic, others] { clients.patience.store(3_000, ordering: .relaxed) }
            try replace(signal: SIGKILL, ["KNETD_BPF_OBJECTS": larger])
            #expect(try Self.tags("node1", playground).isDisjoint(with: first))
            try replace(signal: SIGTERM)
            #expect(try Self.tags("node1", playground) == first)
            // Other maps: what the old ones know goes over to them.
            let flows = "knetd_bpf_map_entries{map=\"knet_flows\"}"
            let known = try metric(flows, of: "node1", playground)
            for node in playground.nodeNames {
                try configure(
                    node, plugins(["flows": 65_536, "verdicts": 8_192, "peers": 32_768, "translations": 131_072]),
                    playground)
            }
            try eventually(within: 5) {
                try metric("knetd_bpf_map_capacity{map=\"knet_flows\"}", of: "node1", playground) == 65_536
            }
            #expect(try metric(flows, of: "node1", playground) >= known && known > 8)
            // Who must ask a second time has asked.
            usleep(1_500_000)
            let (connections, exchanges) = (
                traffic.connections.load(ordering: .relaxed), traffic.exchanges.load(ordering: .relaxed)
            )
            usleep(500_000)
            #expect(traffic.connections.load(ordering: .relaxed) > connections + 50, "connections begin")
            #expect(traffic.exchanges.load(ordering: .relaxed) > exchanges + 50, "streams go on")
            let rate = traffic.rate
            print("\(Int(rate)) connections/s")
            #expect(rate >= 200)
            #expect(others.rate >= 60)
            #expect(traffic.stop() == [])
            #expect(others.stop() == [])
        }
    }

    /// Whether clients outside get to Services past the stack.
    private static func settled(_ stage: Stage) throws -> Bool {
        let outcome = "knetd_bpf_packets_total{outcome=\"to_endpoint\"}"
        let before = try metric(outcome, of: "node1", stage.playground)
        for family in IPFamily.allCases {
            for port in [30_081, 30_082] as [UInt16] {
                _ = try? Prober(stage.playground.namespace("outside"), port: port, milliseconds: 500).answer(
                    stage.address("node1", family))
            }
        }
        return try metric(outcome, of: "node1", stage.playground) >= before + 8
    }

    /// What nodes without power lose of the programs: all that is pinned, and what is attached.
    private static func losePower(_ playground: Playground) throws {
        for node in playground.nodeNames { try playground.stopDaemon(node, signal: SIGKILL) }
        for node in playground.nodeNames {
            Playground.unmount(below: "\(playground.directory)/\(node)")
            try playground.namespace(node).run {
                let hooks = ProgramHooks(refused: [])
                for link in try NetlinkSocket().links() { try hooks.detach(from: link.index) }
            }
            try #require(Self.tags(node, playground).isEmpty)
        }
    }

    @Test func afterAPowerFailureAllIsRebuiltWithinASecond() throws {
        let settings: JSONValue = ["plugins": ["ebpf": [:], "serviceProxy": [:], "networkPolicy": [:]]]
        try withServices(settings) { stage in
            let playground = stage.playground
            try stage.put(
                Self.pods(playground) + Self.closed + [Stage.service("web", 1)]
                    + stage.slices("web", [.init(pod: "a"), .init(pod: "b")]))
            try stage.waitFor(1) { $0.server != nil }
            let pods = try IPFamily.allCases.flatMap { family in
                try ["a", "b"].map { (try stage.address($0, family), EchoServer.longPort) }
            }
            let traffic = try Traffic(from: playground.namespace("c1"), to: [], streams: pods)
            defer { _ = traffic.stop() }
            for family in IPFamily.allCases {
                try traffic.listen(
                    playground.namespace("c1"), to: stage.address("a", family), in: playground.namespace("a"))
            }
            let tags = try playground.nodeNames.map { try Self.tags($0, playground) }
            var times: [Duration] = []
            for _ in 0..<5 {
                usleep(200_000)
                let lost = try Self.counters("node1", playground)
                try Self.losePower(playground)
                for (node, tags) in zip(playground.nodeNames, tags) {
                    let start = ContinuousClock.now
                    try playground.startDaemon(node)
                    try eventually(within: 5) { try Self.tags(node, playground) == tags }
                    try playground.waitUntilReady(node)
                    times.append(ContinuousClock.now - start)
                }
                let found = try Self.counters("node1", playground)
                #expect(found[1] < lost[1], "nothing of it is left: \(lost), \(found)")
                // By programs again, of packets and at the socket.
                for family in IPFamily.allCases {
                    // The rules serve until the sockets' maps are filled.
                    try eventually(within: 3) {
                        let before = try Self.counters("node1", playground)
                        _ = try #require(stage.connect(from: "c1", to: 1, family).server)
                        _ = try Prober(playground.namespace("c1")).answer(stage.address("a", family))
                        return try zip(before, Self.counters("node1", playground)).allSatisfy { $0 < $1 }
                    }
                }
                let rebuilt = ContinuousClock.now
                try eventually(within: 6) { traffic.isHeard(since: rebuilt) }
            }
            print("rebuilt in \(times.map { Int($0 / .milliseconds(1)) }) ms")
            // All but one: others may be at work on the machine.
            #expect(times.sorted()[times.count - 2] < .seconds(1), "\(times)")
            #expect(traffic.stop() == [], "streams go on by the host's stack meanwhile")
        }
    }

    /// Packets that went to pods past the stack, and sockets that were connected to endpoints.
    private static func counters(_ node: String, _ playground: Playground) throws -> [Double] {
        [
            try metric("knetd_bpf_packets_total{outcome=\"to_pod\"}", of: node, playground),
            try metric("knetd_bpf_sockets_total{outcome=\"connected\"}", of: node, playground),
        ]
    }

    private typealias Stage = ServiceStage
}
