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
    /// 200 new connections a second, and streams that last, until `stop`.
    private final class Traffic: Sendable {
        private let failures = Mutex<[String]>([])
        let connections = Atomic(0)
        let exchanges = Atomic(0)
        private let running = Atomic(0)
        private let isStopped = Atomic(false)

        /// - Parameter targets: addresses and ports of `EchoServer`s, or of a Service's.
        init(from pod: NetworkNamespace, to targets: [(IPAddress, UInt16)], streams: [(IPAddress, UInt16)]) throws {
            for (address, port) in targets {
                try repeatedly("connection to \(address)", pause: UInt32(1_000_000 * targets.count / 200)) { [self] in
                    // Less than TCP takes to send a SYN again: no packet is lost either.
                    _ = try Prober(pod, port: port, milliseconds: 900).answer(address, bytes: 100)
                    connections.add(1, ordering: .relaxed)
                }
            }
            for (address, port) in streams {
                let stream = try StreamClient(to: address, port: port, in: pod)
                try repeatedly("stream to \(address)", pause: 2_000) { [self] in
                    try stream.exchange(bytes: 1_000)
                    exchanges.add(1, ordering: .relaxed)
                }
            }
        }

        private func repeatedly(_ name: String, pause: UInt32, _ body: @escaping () throws -> Void) throws {
            nonisolated(unsafe) let body = body
            running.add(1, ordering: .relaxed)
            try DedicatedThread.start(name: "traffic") { [self] in
                while !isStopped.load(ordering: .relaxed) {
                    do { try body() } catch {
                        failures.withLock { $0.append("\(name): \(error)") }
                        break
                    }
                    usleep(pause)
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

    /// The programs as another compiler's options make them: other instructions, the same maps.
    private static func otherPrograms(in folder: String) throws {
        let sources = "\(Checkout.path)/plugins/ebpf/bpf"
        for name in ["path", "socket"] {
            let outcome = try ChildProcess.run(
                "/bin/sh",
                [
                    "-c",
                    "clang -target bpf -mcpu=v2 -O2 -g -I/usr/include/$(uname -m)-linux-gnu -c \(sources)/\(name).bpf.c -o \(folder)/\(name).o",
                ])
            try #require(outcome.status == 0, "\(outcome)")
        }
    }

    /// What identifies the programs at work on a node's devices.
    private static func tags(_ node: String, _ playground: Playground) throws -> Set<[UInt8]> {
        try playground.namespace(node).run {
            let hooks = ProgramHooks(refused: [])
            return Set(try NetlinkSocket().links().flatMap { hooks.attached(to: $0.index).map(\.info.tag) })
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
            let objects = "\(playground.directory)/objects"
            try FileManager.default.createDirectory(atPath: objects, withIntermediateDirectories: true)
            try Self.otherPrograms(in: objects)
            let pods = ["a", "b", "c1", "c2"].map { pod -> JSONValue in
                let ips = playground.addresses(of: pod).map { JSONValue.object(["ip": .string("\($0)")]) }
                return [
                    "kind": "Pod", "apiVersion": "v1", "metadata": ["name": .string(pod)],
                    "spec": ["nodeName": .string(playground.node(of: pod) ?? "")], "status": ["podIPs": .array(ips)],
                ]
            }
            try stage.put(
                pods + [Stage.service("web", 1)] + stage.slices("web", [.init(pod: "a"), .init(pod: "b")]))
            try stage.waitFor(1) { $0.server != nil }
            let ends = try IPFamily.allCases.flatMap { family -> [(address: IPAddress, port: UInt16)] in
                try ["a", "b"].map { (try stage.address($0, family), EchoServer.port) }
                    + [(try stage.ip(Stage.clusterIP(1, family)), 80)]
            }
            let streams = ends.filter { $0.port != 80 }.map { ($0.address, EchoServer.longPort) }
            let traffic = try Traffic(from: playground.namespace("c1"), to: ends, streams: streams)
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
            #expect(traffic.stop() == [])
        }
    }

    private typealias Stage = ServiceStage
}
