import CMnl
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport
import Testing

/// Pods that send from their first instruction: none is a moment without its policies, nor one without what these allow.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct PolicyStartTests {
    /// How many pods are started: `make nightly` asks for many more.
    private static let starts = getenv("KNETD_POLICY_STARTS").flatMap { Int(String(cString: $0)) } ?? 60

    /// One on each node, so that each start has a neighbour and a stranger.
    private static let targets = ["x/a", "x/b"]

    /// Sends without pause from a namespace, which need not have an interface yet.
    private final class Knocker: Sendable {
        private let sent = Atomic(0)
        private let isStopped = Atomic(false)
        private let isOver = Atomic(false)

        /// Microseconds from one knock to the next.
        private static let interval: UInt32 = 100

        init(in namespace: NetworkNamespace, at targets: [IPAddress]) throws {
            try DedicatedThread.start(name: "policy-early") { [self] in
                try? namespace.run { try knock(at: targets) }
                isOver.store(true, ordering: .releasing)
            }
        }

        /// Datagrams that left their socket: there was an address then.
        var count: Int { sent.load(ordering: .relaxed) }

        func stop() {
            isStopped.store(true, ordering: .relaxed)
            while !isOver.load(ordering: .acquiring) { usleep(1_000) }
        }

        private func knock(at targets: [IPAddress]) throws {
            let datagrams = try IPFamily.allCases.map { try PolicySocket.open($0, SOCK_DGRAM, port: 0) }
            while !isStopped.load(ordering: .relaxed) {
                for target in targets {
                    let datagram = datagrams[target.family == .v4 ? 0 : 1]
                    if PolicyProbe.send(datagram, to: target, port: 80) { sent.add(1, ordering: .relaxed) }
                    // Closed before an answer comes: each is a first packet.
                    let stream = try PolicySocket.open(target.family, SOCK_STREAM, port: 0)
                    target.withSocketName(port: 80) { name, length in _ = connect(stream.number, name, length) }
                }
                usleep(Self.interval)
            }
        }
    }

    /// Pods that are known before they are started, as the scheduler makes them.
    private static func pods(_ role: String) -> [(name: String, node: String, object: JSONValue)] {
        (0..<starts).map { number in
            let (name, node) = ("\(role)-\(number)", "node\(number % 2 + 1)")
            let object: JSONValue = [
                "apiVersion": "v1", "kind": "Pod",
                "metadata": ["name": .string(name), "namespace": "x", "labels": ["role": .string(role)]],
                "spec": ["nodeName": .string(node)], "status": ["phase": "Pending"],
            ]
            return ("x/\(name)", node, object)
        }
    }

    @Test func noPacketOfAPodThatMayNotSendGetsOut() throws {
        try PolicyStage.with { stage in
            let playground = stage.playground
            let pods = Self.pods("mute")
            let policy = PolicyCase(
                "mute", "x/mute: {podSelector: {matchLabels: {role: mute}}, policyTypes: [Egress]}")
            var world = try policy.world(stage.world)
            world.others = pods.map { $0.object }
            try stage.apply(world)
            let doors = try Self.targets.map { try PolicyDoor(of: playground.namespace($0)) }
            defer { for door in doors { door.stop() } }
            let targets = Self.targets.flatMap { stage.world.places[$0]?.addresses ?? [] }
            let known = Set(stage.world.places.values.flatMap { $0.addresses })
            var knocks = 0

            /// - Returns: how many datagrams were sent while the pod had an address.
            func start(_ pod: String, on node: String) throws -> Int {
                let knocker = try Knocker(in: try playground.makePodNamespace(pod), at: targets)
                defer { knocker.stop() }
                let addresses = try playground.attachPod(pod, node: node)
                #expect(addresses.count == 2)
                usleep(20_000)
                let count = knocker.count
                let early = doors.map { $0.strangers(but: known) }
                #expect(early.allSatisfy { $0.isEmpty }, "\(pod): \(early) before it ends")
                // It goes on until its interface is gone.
                try playground.deletePod(pod)
                return count
            }

            for pod in pods {
                let count = try start(pod.name, on: pod.node)
                knocks += count
                #expect(count > 0, "\(pod.name) sent nothing")
                let strangers = doors.map { $0.strangers(but: known) }
                guard strangers.allSatisfy({ $0.isEmpty }) else {
                    Issue.record("\(pod.name) reached \(Self.targets): \(strangers)")
                    return
                }
            }
            print("\(pods.count) starts, \(knocks) datagrams and none of them got out")

            // And it would have been seen.
            world.policies = []
            try stage.apply(world)
            guard let last = pods.last else { return }
            let knocker = try Knocker(in: try playground.makePodNamespace(last.name), at: targets)
            defer { knocker.stop() }
            let addresses = try playground.attachPod(last.name, node: last.node)
            // Both transports and families.
            try eventually(within: 3) { doors.allSatisfy { $0.arrived(from: addresses).count == 4 } }
        }
    }

    /// The ingress policies of the neighbour know the pod by its label. The other node learns of the pod's address by its object
    /// alone, which no runtime has written yet when ADD returns: there the node's range stands for it.
    @Test func theFirstPacketsOfAPodThatMaySendGetThrough() throws {
        let guest = "{podSelector: {matchLabels: {role: guest}}}"
        func range(_ node: Int) -> String {
            "{ipBlock: {cidr: 10.42.\(node).0/24}}, {ipBlock: {cidr: 'fd42:0:0:\(node)::/64'}}"
        }
        let policies = PolicyCase(
            "guests",
            """
            x/guest: {podSelector: {matchLabels: {role: guest}}, policyTypes: [Ingress, Egress],
              egress: [{to: [{podSelector: $a}, {podSelector: $b}], ports: [{port: 80}, {port: 80, protocol: UDP}]}]}
            x/a: {podSelector: $a, ingress: [{from: [\(guest), \(range(2))]}]}
            x/b: {podSelector: $b, ingress: [{from: [\(guest), \(range(1))]}]}
            """)
        try PolicyStage.with { stage in
            let playground = stage.playground
            let pods = Self.pods("guest")
            var world = try policies.world(stage.world)
            world.others = pods.map { $0.object }
            try stage.apply(world)
            let targets = Self.targets.flatMap { stage.world.places[$0]?.addresses ?? [] }
            var slowest = 0
            for pod in pods {
                let namespace = try playground.makePodNamespace(pod.name)
                try playground.attachPod(pod.name, node: pod.node)
                for target in targets {
                    let start = ContinuousClock.now
                    let isAnswered = try PolicyProbe.isAnswered(from: namespace, to: target, milliseconds: 200)
                    let isConnected = try PolicyProbe.connects(from: namespace, to: target, milliseconds: 200)
                    slowest = max(slowest, Int((ContinuousClock.now - start) / .milliseconds(1)))
                    #expect(isAnswered, "\(pod.name) on \(pod.node): the datagram to \(target)")
                    #expect(isConnected, "\(pod.name) on \(pod.node): the connection to \(target)")
                }
                try playground.deletePod(pod.name)
            }
            print("\(pods.count) starts, the slowest datagram and connection of one took \(slowest) ms")
        }
    }
}
