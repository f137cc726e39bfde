import Dispatch
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport
import Testing

/// The daemon is killed, restarted and replaced while packets flow.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct RestartTests {
    /// Pings and one TCP connection between pods and through a host port, until `stop`.
    private final class Flows: Sendable {
        let failures = Mutex<[String]>([])
        let rounds = Atomic(0)
        private let isStopped = Atomic(false)
        private let running = DispatchGroup()

        init(_ playground: Playground, from: String, to addresses: [IPAddress], hostPort: (IPAddress, UInt16)) throws {
            let pod = try playground.namespace(from)
            let outside = try playground.namespace("outside")
            for address in addresses {
                repeatedly("ping \(address)") { try Prober(pod, milliseconds: 400).ping(address) }
                let stream = try StreamClient(to: address, in: pod)
                repeatedly("TCP \(address)") { try stream.exchange(bytes: 1000) }
            }
            let stream = try StreamClient(to: hostPort.0, port: hostPort.1, in: outside)
            repeatedly("host port") { try stream.exchange(bytes: 1000) }
        }

        private func repeatedly(_ name: String, _ body: @escaping () throws -> Void) {
            running.enter()
            nonisolated(unsafe) let body = body
            Thread.detach { [self] in
                while !isStopped.load(ordering: .relaxed) {
                    do { try body() } catch {
                        failures.withLock { $0.append("\(name): \(error)") }
                        break
                    }
                    rounds.add(1, ordering: .relaxed)
                    usleep(2_000)
                }
                running.leave()
            }
        }

        func stop() -> [String] {
            isStopped.store(true, ordering: .relaxed)
            running.wait()
            return failures.withLock { $0 }
        }
    }

    private enum Thread {
        static func detach(_ body: @escaping @Sendable () -> Void) {
            do { try DedicatedThread.start(name: "flow", body) } catch { Issue.record(error) }
        }
    }

    @Test(arguments: ["overlay", "routed", "ebpf"]) func noFlowNoticesKillsRestartsAndUpgrades(plugin: String) throws {
        try withPlayground(nodes: 2, ["plugins": [plugin: [:]]]) { playground in
            try playground.addPod("a", node: "node1")
            try NetworkNamespace.create(path: playground.namespacePath("b"))
            var cni = CNIRun(playground: playground, node: "node2")
            cni.extra["runtimeConfig"] = [
                "portMappings": [["hostPort": 18_007, "containerPort": .integer(Int(EchoServer.longPort))]],
                "bandwidth": ["ingressRate": 800_000_000, "ingressBurst": 8_000_000],
            ]
            let added = try cni("ADD", pod: "b").json
            let addresses = (added["ips"]?.array ?? []).compactMap {
                $0["address"]?.string?.split(separator: "/").first.flatMap { IPAddress($0) }
            }
            #expect(addresses.count == 2, "\(added)")
            let server = try EchoServer(in: playground.namespace("b"))
            defer { server.stop() }
            let host = try #require(playground.address(of: "node2", .v4))
            let flows = try Flows(playground, from: "a", to: addresses, hostPort: (host, 18_007))
            usleep(200_000)
            // Replacing the file is the upgrade; killing is the worst way to end.
            let installed = "\(playground.directory)/knetd"
            try FileManager.default.copyItem(atPath: Checkout.executable, toPath: installed)
            playground.executable = installed
            for (round, signal) in [SIGKILL, SIGTERM, SIGKILL].enumerated() {
                for node in playground.nodeNames { try playground.stopDaemon(node, signal: signal) }
                if round == 2 {
                    try FileManager.default.copyItem(atPath: Checkout.executable, toPath: installed + ".new")
                    try syscall("rename") { rename(installed + ".new", installed) }
                }
                usleep(100_000)
                for node in playground.nodeNames { try playground.startDaemon(node) }
                for node in playground.nodeNames {
                    try playground.waitUntilReady(node)
                    usleep(300_000)
                    #expect(
                        try metric("knetd_kernel_writes_total", of: node, playground) == 0,
                        "\(playground.log(of: node))")
                }
            }
            let before = flows.rounds.load(ordering: .relaxed)
            usleep(200_000)
            #expect(flows.rounds.load(ordering: .relaxed) > before, "the flows go on")
            #expect(flows.stop() == [])
        }
    }
}
