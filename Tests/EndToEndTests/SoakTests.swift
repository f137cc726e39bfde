import Dispatch
import FoundationEssentials
import Glibc
import KnetCore
import KnetDataplane
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Kills at every step and at random: whatever happens, store, kernel and the runtime's view agree afterwards.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct SoakTests {
    /// What the kernel of a node holds of pods: links, addresses by route, elements of maps.
    private struct Held: Equatable {
        var links: Set<String> = []
        var addresses: Set<String> = []
        var ports: Set<String> = []

        init() {}

        init(_ node: NetworkNamespace) throws {
            try node.run {
                let kernel = NetworkKernel(pool: NetlinkPool(), nftables: try Nftables())
                let present = try kernel.attachments()
                links = Set(
                    try NetlinkSocket().links().map(\.name).filter { $0.hasPrefix("knet") && !$0.contains(".") })
                addresses = Set(present.flatMap(\.addresses).map(\.description))
                ports = Set(present.flatMap(\.options.hostPorts).map { "\($0.port)" })
            }
        }
    }

    private func runtimeConfig(port: Int) -> JSONValue {
        var config: [String: JSONValue] = [
            "portMappings": [
                ["hostPort": .integer(port), "containerPort": 80, "protocol": port % 2 == 0 ? "udp" : "tcp"]
            ]
        ]
        if port % 10 == 0 { config["bandwidth"] = ["egressRate": 8_000_000, "egressBurst": 800_000] }
        return .object(config)
    }

    // MARK: Every step

    @Test func aKillAtAnyStepOfAddOrDelLosesNothing() throws {
        try withPlayground { playground in
            let counter = "\(playground.directory)/crash"
            let node = try playground.namespace("node1")
            let empty = try Held(node)
            try playground.stopDaemon("node1")
            try playground.startDaemon("node1", environment: ["KNETD_CRASH_FILE": counter])
            try playground.waitUntilReady("node1")
            var steps = ["ADD": 0, "DEL": 0]
            for command in ["ADD", "DEL"] {
                var survived = false
                for step in 0..<200 where !survived {
                    try NetworkNamespace.create(path: playground.namespacePath("a"))
                    var cni = CNIRun(playground: playground)
                    cni.extra["runtimeConfig"] = runtimeConfig(port: 5300)
                    if command == "DEL" { #expect(try cni("ADD", pod: "a").status == 0) }
                    try Data("\(step)\n".utf8).write(to: URL(fileURLWithPath: counter))
                    let outcome = try cni(command, pod: "a")
                    // The link goes after the answer to DEL; a kill may fall into that too.
                    usleep(command == "DEL" ? 60_000 : 0)
                    unlink(counter)
                    survived = try playground.isAlive("node1")
                    if survived {
                        #expect(outcome.status == 0)
                    } else {
                        steps[command, default: 0] += 1
                        try playground.stopDaemon("node1")
                        try playground.startDaemon("node1", environment: ["KNETD_CRASH_FILE": counter])
                        try playground.waitUntilReady("node1")
                    }
                    // As a runtime does: after a failed ADD, and until it succeeds.
                    if command == "ADD" {
                        #expect(try cni("DEL", pod: "a").status == 0, "after step \(step)")
                        #expect(try cni("ADD", pod: "a").status == 0, "after step \(step)")
                    }
                    #expect(try cni("DEL", pod: "a").status == 0, "after step \(step)")
                    try eventually { try Held(node) == empty }
                    #expect(try playground.status(of: "node1")["allocations"]?.array == [])
                    NetworkNamespace.remove(path: playground.namespacePath("a"))
                }
                #expect(survived, "\(command) has more steps than were tried")
            }
            print("killed at \(steps) steps")
            // Before and after each of: three transactions, the veth, the pod's side, shaping, the reconciler's batches.
            #expect(steps["ADD", default: 0] >= 12 && steps["DEL", default: 0] >= 8, "\(steps)")
            try eventually {
                try playground.status(of: "node1")["ranges"]?.array?.map { $0["used"] ?? .null } == [0, 0]
            }
        }
    }

    // MARK: Random

    /// A runtime that remembers what it was told, and asks over the socket as the CNI mode does.
    private final class Runtime {
        struct Pod {
            let name: String
            let port: Int
            let namespace: NetworkNamespace
            var addresses: [String] = []
        }

        let playground: Playground
        private(set) var pods: [Pod] = []
        private(set) var operations: [String: Int] = [:]
        private var created = 0

        init(_ playground: Playground) { self.playground = playground }

        func ask(_ command: String, _ pod: Pod?, _ extra: [String: JSONValue] = [:]) throws -> JSONValue? {
            var config = playground.networkConfiguration("node1").object ?? [:]
            config.merge(extra) { $1 }
            var environment = ["CNI_COMMAND": command]
            if let pod {
                environment["CNI_CONTAINERID"] = pod.name
                environment["CNI_IFNAME"] = "eth0"
                environment["CNI_NETNS"] = "/proc/\(getpid())/fd/\(pod.namespace.number)"
            }
            let request = try CNIRequest(environment: environment, config: .object(config))
            let reply = try AgentSocket.ask(
                playground.socketPath("node1"), JSONEncoder().encode(AgentRequest.cni(request)),
                descriptor: pod?.namespace.number, seconds: 20)
            let answer = try JSONDecoder().decode(AgentReply.self, from: reply)
            operations[command, default: 0] += 1
            guard answer.succeeded else { throw Playground.Failure(answer.body?["msg"]?.string ?? "no reason") }
            return answer.body
        }

        func add(_ runtimeConfig: (Int) -> JSONValue) throws {
            created += 1
            let pod = Pod(
                name: "pod-\(created)", port: 2000 + created % 500, namespace: try NetworkNamespace.anonymous())
            pods.append(pod)
            let result = try ask("ADD", pod, ["runtimeConfig": runtimeConfig(pod.port)])
            pods[pods.count - 1].addresses = (result?["ips"]?.array ?? []).compactMap { $0["address"]?.string }
        }

        func remove(_ index: Int) throws {
            _ = try ask("DEL", pods[index])
            pods.remove(at: index)
        }

        /// Forgets pods without a DEL: GC must find out.
        func collect(forgetting index: Int?) throws {
            if let index { pods.remove(at: index) }
            let valid = pods.map { ["containerID": .string($0.name), "ifname": "eth0"] as JSONValue }
            _ = try ask("GC", nil, ["cni.dev/valid-attachments": .array(valid)])
        }

        func reboot() { pods = [] }
    }

    @Test func fiveThousandRandomOperationsWithKillsAndRebootsEndInAgreement() throws {
        let seed =
            ProcessInfo.processInfo.environment["KNETD_SEED"].flatMap(UInt64.init) ?? UInt64.random(in: 0...UInt64.max)
        let count = ProcessInfo.processInfo.environment["KNETD_OPERATIONS"].flatMap(Int.init) ?? 5000
        print("KNETD_SEED=\(seed)")
        var random = SeededGenerator(seed: seed)
        try withPlayground { playground in
            let node = try playground.namespace("node1")
            let runtime = Runtime(playground)
            let boot = "\(playground.directory)/boot_id"
            try Data("boot-0\n".utf8).write(to: URL(fileURLWithPath: boot))
            try restart(playground, boot: boot)
            var (kills, reboots) = (0, 0)
            var done: Int { runtime.operations.values.reduce(0, +) }
            while done < count {
                // A kill in the middle of a burst of operations, now and then.
                var killer: Int32?
                if Int.random(in: 0..<6, using: &random) == 0 {
                    let process = playground.process(of: "node1")
                    let delay = UInt32.random(in: 0...30_000, using: &random)
                    killer = process
                    try DedicatedThread.start(name: "killer") {
                        usleep(delay)
                        kill(process, SIGKILL)
                    }
                }
                for _ in 0..<20 {
                    // What fails is asked for again later, as a runtime does.
                    try? step(runtime, &random)
                }
                if killer != nil {
                    kills += 1
                    try playground.stopDaemon("node1", signal: SIGKILL)
                    if Int.random(in: 0..<4, using: &random) == 0 {
                        reboots += 1
                        try reboot(playground, runtime, boot: boot, number: reboots)
                    }
                    try restart(playground, boot: boot)
                }
            }
            print("\(runtime.operations) answered, \(kills) kills, \(reboots) reboots")
            try settle(runtime, playground, node)
            while !runtime.pods.isEmpty { try runtime.remove(0) }
            try eventually(within: 5) { try Held(node) == Held() }
            try eventually {
                try playground.status(of: "node1")["ranges"]?.array?.map { $0["used"] ?? .null } == [0, 0]
            }
            #expect(kills > count / 400 && runtime.operations.count == 3)
        }
    }

    private func step(_ runtime: Runtime, _ random: inout SeededGenerator) throws {
        let index = runtime.pods.isEmpty ? nil : Int.random(in: 0..<runtime.pods.count, using: &random)
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<48 where runtime.pods.count < 60: try runtime.add(runtimeConfig)
        case 0..<96: if let index { try runtime.remove(index) }
        case 96..<98: try runtime.collect(forgetting: index)
        default: try runtime.collect(forgetting: nil)
        }
    }

    /// Lets the runtime tidy up after its failures and compares all three views.
    private func settle(_ runtime: Runtime, _ playground: Playground, _ node: NetworkNamespace) throws {
        for index in runtime.pods.indices.reversed() where runtime.pods[index].addresses.isEmpty {
            try runtime.remove(index)
        }
        try runtime.collect(forgetting: nil)
        let addresses = runtime.pods.flatMap(\.addresses).map { String($0.split(separator: "/")[0]) }
        #expect(Set(addresses).count == addresses.count, "an address was given twice")
        try eventually(within: 5) {
            try Held(node).links.count >= runtime.pods.count && Held(node).addresses == Set(addresses)
        }
        let held = try Held(node)
        #expect(held.addresses == Set(addresses))
        #expect(held.ports == Set(runtime.pods.map { "\($0.port)" }))
        let status = try playground.status(of: "node1")
        let stored = (status["allocations"]?.array ?? []).flatMap { $0["addresses"]?.array ?? [] }.compactMap(\.string)
        #expect(Set(stored) == Set(addresses) && stored.count == addresses.count)
        // An address is free again once its link is gone.
        try eventually(within: 5) {
            let ranges = try playground.status(of: "node1")["ranges"]?.array ?? []
            return ranges.map { $0["used"]?.integer } == [runtime.pods.count, runtime.pods.count]
        }
        for pod in runtime.pods {
            let inside = try shell("ip -o addr show dev eth0 scope global", in: pod.namespace)
            for address in pod.addresses { #expect(inside.contains(address)) }
        }
    }

    private func restart(_ playground: Playground, boot: String) throws {
        try playground.stopDaemon("node1", signal: SIGKILL)
        try start("node1", boot: boot, playground)
    }

    /// Everything that does not outlast a reboot goes: namespaces, links, routes, rules, /run; the boot's identity changes.
    private func reboot(_ playground: Playground, _ runtime: Runtime, boot: String, number: Int) throws {
        runtime.reboot()
        try forgetBoot(of: "node1", playground)
        try Data("boot-\(number)\n".utf8).write(to: URL(fileURLWithPath: boot))
    }
}
