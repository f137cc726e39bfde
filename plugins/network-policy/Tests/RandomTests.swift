import Glibc
import HashTreeCollections
import KnetLinux
import TestSupport
import Testing

@testable import KnetCore
@testable import NetworkPolicyPlugin

/// Random pods, namespaces and policies come, change and go; in the end the kernel holds what a fresh start computes, and by its rules
/// packets pass as the objects have it.
@Suite(.enabled(if: Root.isAvailable)) struct RandomTests {
    private static let runs = getenv("KNETD_RANDOM_RUNS").flatMap { Int(String(cString: $0)) } ?? 60

    @Test func everyOrderEndsInWhatAFreshStartComputes() throws {
        let seed = getenv("KNETD_SEED").flatMap { UInt64(String(cString: $0)) } ?? UInt64.random(in: 0...UInt64.max)
        print("seed of the random policies: \(seed)")
        for run in 0..<Self.runs {
            var world = World(seed: seed &+ UInt64(run))
            let steps = Int.random(in: 5...25, using: &world.random)
            let (after, failures) = try NetworkNamespace.anonymous().run { () throws -> (Set<PolicyEntry>, [String]) in
                let nftables = try Nftables()
                var subscription = world.store.follow {}
                var pass = try Self.pass(nftables)
                var failures = Self.run(&pass, subscription.take(), resync: true)
                for _ in 0..<steps {
                    for _ in 0...Int.random(in: 0...2, using: &world.random) { world.step() }
                    let isRestart = Int.random(in: 0...9, using: &world.random) == 0
                    if isRestart {
                        subscription = world.store.follow {}
                        pass = try Self.pass(nftables)
                    }
                    failures += Self.run(&pass, subscription.take(), resync: isRestart)
                }
                failures += Self.run(&pass, subscription.take(), resync: true)
                return (try Self.kernel(nftables), failures)
            }
            let (fresh, differences) = try NetworkNamespace.anonymous().run {
                () throws -> (Set<PolicyEntry>, [String]) in
                let nftables = try Nftables()
                var pass = try Self.pass(nftables)
                _ = pass.run(world.store.follow {}.take(), resync: true)
                return (try Self.kernel(nftables), try Self.differences(pass.plugin, world.store.current))
            }
            #expect(failures.isEmpty, "seed \(seed) run \(run)")
            #expect(differences.isEmpty, "seed \(seed) run \(run)")
            let difference =
                after.subtracting(fresh).map { "left: \($0)" }.sorted()
                + fresh.subtracting(after).map { "missing: \($0)" }.sorted()
            #expect(difference.isEmpty, "seed \(seed) run \(run)")
            if !difference.isEmpty || !failures.isEmpty || !differences.isEmpty { return }
        }
    }

    private static func run(
        _ pass: inout ReconcilePass<NetworkPolicies>, _ change: StateStore.Change, resync: Bool
    ) -> [String] {
        let outcome = pass.run(change, resync: resync)
        return outcome.failed == 0 ? [] : pass.otherFaults + pass.faults.values.filter { $0.contains("refused") }
    }

    private static func pass(_ nftables: Nftables) throws -> ReconcilePass<NetworkPolicies> {
        ReconcilePass(
            plugin: NetworkPolicies(.defaults, kernel: try PolicyKernel(nftables: nftables, pool: NetlinkPool())))
    }

    private static func kernel(_ nftables: Nftables) throws -> Set<PolicyEntry> {
        Set(try PolicyKernel(nftables: nftables, pool: NetlinkPool()).read())
    }

    /// Where the walk through the kernel's table ends otherwise than the objects have it.
    private static func differences(_ plugin: NetworkPolicies, _ state: ClusterState) throws -> [String] {
        let explainer = try plugin.explainer(in: state)
        let local = state.attachments.values.compactMap(\.podName)
        return try local.flatMap { name -> [String] in
            try World.pods.flatMap { other -> [String] in
                guard state.pods[ObjectKey(.pod, namespace: World.namespace(of: other), name: other)] != nil,
                    state.pods[ObjectKey(.pod, namespace: World.namespace(of: name), name: name)] != nil
                else { return [] }
                return try [("80", "tcp"), ("81", "tcp"), ("53", "udp")].flatMap { port, transport -> [String] in
                    let target = "\(World.namespace(of: other))/\(other):\(port)/\(transport)"
                    let answer: JSONValue
                    do {
                        answer = try explainer.explain("\(World.namespace(of: name))/\(name)", target)
                    } catch is Explainer.Unknown {
                        // One of the pods has no address of its own.
                        return []
                    }
                    return (answer["ways"]?.array ?? []).flatMap { way in
                        (way["faults"]?.array ?? []).map { "\(name) → \(target): \($0.text())" }
                    }
                }
            }
        }
    }
}

extension NetworkPolicies.Settings {
    static let defaults = NetworkPolicies.Settings(
        existingConnections: "keep", checkSources: true, dnsService: "kube-system/kube-dns",
        dnsAddresses: ["169.254.20.10"], logGroup: 107, loggedDropsPerSecond: 10)
}
