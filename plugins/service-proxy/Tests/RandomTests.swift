import Glibc
import HashTreeCollections
import KnetLinux
import Synchronization
import TestSupport
import Testing

@testable import KnetCore
@testable import ServiceProxyPlugin

/// Random services and endpoints come, change and go, the daemon dies now and then; in the end the kernel holds what a fresh
/// start computes.
@Suite(.enabled(if: Root.isAvailable)) struct RandomTests {
    private static let runs = getenv("KNETD_RANDOM_RUNS").flatMap { Int(String(cString: $0)) } ?? 200

    private static func pick<T>(_ values: [T], _ random: inout SeededGenerator) -> T {
        values[Int.random(in: 0..<values.count, using: &random)]
    }

    private static func service(_ name: String, _ random: inout SeededGenerator) -> Service {
        var spec = Service.Spec(type: pick(["ClusterIP", "NodePort", "LoadBalancer"], &random))
        // Few addresses and ports, so that services collide.
        let number = Int.random(in: 1...6, using: &random)
        spec.clusterIP = "10.96.0.\(number)"
        spec.clusterIPs = pick(
            [["10.96.0.\(number)"], ["10.96.0.\(number)", "fd96::\(number)"], ["10.96.0.\(number)", "bad"]], &random)
        spec.ports = (0..<Int.random(in: 1...3, using: &random)).map { index in
            Service.Port(
                name: "p\(index)", protocol: pick(["TCP", "UDP", "SCTP"], &random),
                port: pick([80, 443, 53, 0], &random),
                targetPort: nil, nodePort: pick([nil, 30_080, 30_081], &random))
        }
        spec.sessionAffinity = pick([nil, "ClientIP"], &random)
        spec.externalTrafficPolicy = pick([nil, "Local"], &random)
        spec.internalTrafficPolicy = pick([nil, "Local"], &random)
        spec.externalIPs = pick([nil, ["198.51.100.7"]], &random)
        spec.loadBalancerSourceRanges = pick([nil, ["192.0.2.0/24", "2001:db8::/32"]], &random)
        let annotations = pick([nil, [ServicePlan.balanceAnnotation: "source-hash"]], &random)
        return Service(
            metadata: Metadata(name: name, namespace: "default", annotations: annotations), spec: spec,
            status: .init(loadBalancer: .init(ingress: [.init(ip: "198.51.100.\(number)", ipMode: nil)])))
    }

    private static func slice(_ name: String, of service: String, _ random: inout SeededGenerator) -> EndpointSlice {
        let endpoints = (0..<Int.random(in: 0...6, using: &random)).map { _ in
            let condition = Bool?.some(Int.random(in: 0...3, using: &random) > 0)
            return EndpointSlice.Endpoint(
                addresses: ["10.42.\(Int.random(in: 1...2, using: &random)).\(Int.random(in: 1...9, using: &random))"],
                conditions: .init(ready: condition, serving: true, terminating: condition.map { !$0 }), hostname: nil,
                nodeName: pick(["node1", "node2"], &random))
        }
        let ports = (0..<3).flatMap { index in
            ["TCP", "UDP", "SCTP"].map { EndpointSlice.Port(name: "p\(index)", port: 8080 + index, protocol: $0) }
        }
        return EndpointSlice(
            name: name, namespace: "default", service: service, addressType: "IPv4", endpoints: endpoints, ports: ports)
    }

    private static func step(_ store: StateStore, _ random: inout SeededGenerator) {
        let name = "s\(Int.random(in: 1...5, using: &random))"
        let object: AnyClusterObject
        if Bool.random(using: &random) {
            object = .service(service(name, &random))
        } else {
            let other = "s\(Int.random(in: 1...5, using: &random))"
            object = .endpointSlice(
                slice("\(name)-x", of: Int.random(in: 0...5, using: &random) == 0 ? other : name, &random))
        }
        let goes = Int.random(in: 0...3, using: &random) == 0
        store.update([object.key]) { if goes { $0.remove(object.key) } else { $0.set(object) } }
    }

    private static func pass(_ nftables: Nftables) throws -> ReconcilePass<ServiceProxy> {
        ReconcilePass(
            plugin: ServiceProxy(
                .init(nodePortAddresses: ["192.0.2.0/24", "2001:db8::/32"].compactMap { CIDR($0) }),
                kernel: try ServiceKernel(nftables: nftables, pool: NetlinkPool())))
    }

    /// What the kernel holds, without the memory of affinity.
    private static func kernel(_ nftables: Nftables) throws -> Set<ServiceEntry> {
        Set(try ServiceKernel(nftables: nftables, pool: NetlinkPool()).read())
    }

    @Test func everyOrderEndsInWhatAFreshStartComputes() throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("seed of the random services: \(seed)")
        for run in 0..<Self.runs {
            var random = SeededGenerator(seed: seed &+ UInt64(run))
            let store = StateStore()
            var local = LocalNode(
                name: "node1", podCIDRs: [CIDR("10.42.1.0/24"), CIDR("fd42:0:0:1::/64")].compactMap { $0 },
                uplinks: [:])
            local.addresses = ["192.0.2.1", "2001:db8::1"].compactMap { IPAddress($0) }
            store.update([.local], told: ServiceProxy.needs.kinds) { $0.set(local: local) }
            let steps = Int.random(in: 5...20, using: &random)
            let (after, failures) = try NetworkNamespace.anonymous().run { () throws -> (Set<ServiceEntry>, Int) in
                let nftables = try Nftables()
                var subscription = store.follow {}
                var pass = try Self.pass(nftables)
                var failures = pass.run(subscription.take(), resync: true).failed
                for _ in 0..<steps {
                    Self.step(store, &random)
                    if Int.random(in: 0...9, using: &random) == 0 {
                        subscription = store.follow {}
                        pass = try Self.pass(nftables)
                        failures += pass.run(subscription.take(), resync: true).failed
                    } else {
                        failures += pass.run(subscription.take(), resync: false).failed
                    }
                }
                failures += pass.run(subscription.take(), resync: true).failed
                return (try Self.kernel(nftables), failures)
            }
            let fresh = try NetworkNamespace.anonymous().run { () throws -> Set<ServiceEntry> in
                let nftables = try Nftables()
                var pass = try Self.pass(nftables)
                _ = pass.run(store.follow {}.take(), resync: true)
                return try Self.kernel(nftables)
            }
            #expect(failures == 0, "seed \(seed) run \(run)")
            #expect(after == fresh, "seed \(seed) run \(run): \(after.symmetricDifference(fresh))")
            if after != fresh || failures > 0 { return }
        }
    }
}
