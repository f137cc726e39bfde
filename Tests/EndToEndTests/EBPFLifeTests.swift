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
    /// More than 200 new connections a second, and streams that last, until `stop`.
    private final class Traffic: Sendable {
        private let failures = Mutex<[String]>([])
        let connections = Atomic(0)
        let exchanges = Atomic(0)
        private let running = Atomic(0)
        private let isStopped = Atomic(false)
        private let start = ContinuousClock.now

        /// Connections that were begun and ended a second, until now.
        var rate: Double {
            Double(connections.load(ordering: .relaxed)) / ((ContinuousClock.now - start) / .seconds(1))
        }

        /// - Parameter targets: addresses and ports of `EchoServer`s, or of a Service's.
        init(from pod: NetworkNamespace, to targets: [(IPAddress, UInt16)], streams: [(IPAddress, UInt16)]) throws {
            for (address, port) in targets {
                try repeatedly("connection to \(address)", every: .seconds(targets.count) / 300) { [self] in
                    // Less than TCP takes to send a SYN again: no packet is lost either.
                    _ = try Prober(pod, port: port, milliseconds: 900).answer(address, bytes: 100)
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

        /// - Parameter interval: from one beginning to the next; what was late is made up for.
        private func repeatedly(_ name: String, every interval: Duration, _ body: @escaping () throws -> Void) throws {
            nonisolated(unsafe) let body = body
            running.add(1, ordering: .relaxed)
            try DedicatedThread.start(name: "traffic") { [self] in
                var next = ContinuousClock.now
                while !isStopped.load(ordering: .relaxed) {
                    do { try body() } catch {
                        failures.withLock { $0.append("\(name): \(error)") }
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
                "kind": "Pod", "apiVersion": "v1", "metadata": ["name": .string(pod)],
                "spec": ["nodeName": .string(playground.node(of: pod) ?? "")], "status": ["podIPs": .array(ips)],
            ]
        }
    }

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
                editing:
                    "sed -i '/^struct knet_flow {/a __u64 more;' include/knet.h && sed -i 's/knet_flow) == 96/knet_flow) == 104/' include/knet.h"
            )
            try stage.put(
                Self.pods(playground) + [Stage.service("web", 1)]
                    + stage.slices("web", [.init(pod: "a"), .init(pod: "b")]))
            try stage.waitFor(1) { $0.server != nil }
            let ends = try IPFamily.allCases.flatMap { family -> [(address: IPAddress, port: UInt16)] in
                try ["a", "b"].map { (try stage.address($0, family), EchoServer.port) }
                    + [(try stage.ip(Stage.clusterIP(1, family)), 80)]
            }
            let streams = ends.filter { $0.port != 80 }.map { ($0.address, EchoServer.longPort) }
            let traffic = try Traffic(from: playground.namespace("c1"), to: ends, streams: streams)
            defer { _ = traffic.stop() }
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
            try replace(signal: SIGKILL, ["KNETD_BPF_OBJECTS": larger])
            #expect(try Self.tags("node1", playground).isDisjoint(with: first))
            try replace(signal: SIGTERM)
            #expect(try Self.tags("node1", playground) == first)
            // Other maps: what the old ones know goes over to them.
            let flows = "knetd_bpf_map_entries{map=\"knet_flows\"}"
            let known = try metric(flows, of: "node1", playground)
            for node in playground.nodeNames {
                try configure(node, plugins(["flows": 65_536, "verdicts": 8_192, "peers": 32_768]), playground)
            }
            try eventually(within: 5) {
                try metric("knetd_bpf_map_capacity{map=\"knet_flows\"}", of: "node1", playground) == 65_536
            }
            #expect(try metric(flows, of: "node1", playground) >= known && known > 8)
            usleep(500_000)
            let (connections, exchanges) = (
                traffic.connections.load(ordering: .relaxed), traffic.exchanges.load(ordering: .relaxed)
            )
            usleep(500_000)
            #expect(traffic.connections.load(ordering: .relaxed) > connections + 50, "connections begin")
            #expect(traffic.exchanges.load(ordering: .relaxed) > exchanges + 50, "streams go on")
            let rate = traffic.rate
            print("\(Int(rate)) connections/s")
            #expect(rate >= 200)
            #expect(traffic.stop() == [])
        }
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
                Self.pods(playground) + [Stage.service("web", 1)]
                    + stage.slices("web", [.init(pod: "a"), .init(pod: "b")]))
            try stage.waitFor(1) { $0.server != nil }
            let pods = try IPFamily.allCases.flatMap { family in
                try ["a", "b"].map { (try stage.address($0, family), EchoServer.longPort) }
            }
            let traffic = try Traffic(from: playground.namespace("c1"), to: [], streams: pods)
            defer { _ = traffic.stop() }
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
                    let before = try Self.counters("node1", playground)
                    _ = try #require(stage.connect(from: "c1", to: 1, family).server)
                    _ = try Prober(playground.namespace("c1")).answer(stage.address("a", family))
                    let after = try Self.counters("node1", playground)
                    #expect(zip(before, after).allSatisfy { $0 < $1 }, "\(before), \(after)")
                }
            }
            print("rebuilt in \(times.map { Int($0 / .milliseconds(1)) }) ms")
            // Half of them: others may be at work on the machine.
            #expect(times.sorted()[times.count / 2] < .seconds(1), "\(times)")
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
