import HashTreeCollections
import KnetCore
import Testing

@testable import LoadBalancerPlugin

/// Which Service gets which address, without a server.
@Suite struct AllocatorTests {
    /// An allocator with the cluster that it follows.
    private struct World {
        var state = ClusterState()
        var allocator: Allocator
        var keys: Set<ObjectKey> = []

        init(_ pools: [LoadBalancer.Settings.Pool], class ownClass: String = "") {
            allocator = Allocator(.init(pools: pools, loadBalancerClass: ownClass))
        }

        /// As another process would find it.
        func restarted(_ pools: [LoadBalancer.Settings.Pool]) -> World {
            var world = World(pools)
            world.state = state
            for (key, outcome) in allocator.outcomes {
                guard let service = state.services[key] else { continue }
                world.state.set(.service(service.with(.init(addresses: outcome.addresses, condition: nil))))
            }
            _ = world.allocator.follow(Set(state.keys), in: world.state)
            return world
        }

        @discardableResult mutating func set(_ services: Service...) -> Set<ObjectKey> {
            for service in services { state.set(.service(service)) }
            return allocator.follow(Set(services.map(\.key)), in: state)
        }

        @discardableResult mutating func remove(_ name: String) -> Set<ObjectKey> {
            let key = ObjectKey(.service, namespace: "default", name: name)
            state.remove(key)
            return allocator.follow([key], in: state)
        }

        func addresses(_ name: String, namespace: String = "default") -> [String] {
            allocator.outcomes[ObjectKey(.service, namespace: namespace, name: name)]?.addresses.map(\.description)
                ?? []
        }

        func refusal(_ name: String) -> Refusal? {
            guard case .refused(let refusal) = allocator.outcomes[ObjectKey(.service, namespace: "default", name: name)]
            else { return nil }
            return refusal
        }
    }

    private static func service(
        _ name: String, namespace: String = "default", ip: [String] = ["10.96.0.1"], port: Int = 80,
        annotations: [String: String] = [:], labels: [String: String] = [:], status: [String] = [],
        _ change: (inout Service.Spec) -> Void = { _ in }
    ) -> Service {
        var spec = Service.Spec(
            type: "LoadBalancer", clusterIP: ip.first, clusterIPs: ip,
            ports: [.init(name: nil, protocol: "TCP", port: port, targetPort: nil, nodePort: nil)])
        change(&spec)
        var service = Service(
            metadata: Metadata(name: name, namespace: namespace, labels: labels, annotations: annotations), spec: spec)
        if !status.isEmpty {
            service = service.with(.init(addresses: status.compactMap { IPAddress($0) }, condition: nil))
        }
        return service
    }

    private static func pool(_ name: String, _ spans: String..., change: Bool = true, avoid: Bool = false)
        -> LoadBalancer.Settings.Pool
    {
        .init(name: name, addresses: spans.compactMap { AddressSpan($0) }, autoAssign: change, avoidBuggyIPs: avoid)
    }

    @Test func theLowestFreeAddressIsGivenAndKept() {
        var world = World([Self.pool("a", "192.0.2.10-192.0.2.12")])
        world.set(Self.service("one"), Self.service("two"))
        #expect(world.addresses("one") == ["192.0.2.10"])
        #expect(world.addresses("two") == ["192.0.2.11"])
        world.remove("one")
        #expect(world.set(Self.service("two", port: 81)) == [])
        #expect(world.addresses("two") == ["192.0.2.11"])
        world.set(Self.service("three"))
        #expect(world.addresses("three") == ["192.0.2.10"])
        let again = world.restarted([Self.pool("a", "192.0.2.10-192.0.2.12")])
        #expect(again.addresses("two") == ["192.0.2.11"])
        #expect(again.addresses("three") == ["192.0.2.10"])
    }

    @Test func whoWaitsGetsWhatIsReleased() {
        var world = World([Self.pool("a", "192.0.2.10")])
        world.set(Self.service("one"), Self.service("two"))
        #expect(world.refusal("two")?.reason == .exhausted)
        #expect(world.refusal("two")?.message == "no free IPv4 address in \"a\"")
        #expect(world.remove("one").map(\.name).sorted() == ["one", "two"])
        #expect(world.addresses("two") == ["192.0.2.10"])
    }

    @Test func whatStandsInStatusesIsNeverGivenTwice() {
        var world = World([Self.pool("a", "192.0.2.10-192.0.2.13")])
        // Nobody has it yet that comes before it by name.
        world.set(
            Self.service("a"), Self.service("b", status: ["192.0.2.10"]), Self.service("c", status: ["192.0.2.10"]))
        #expect(world.addresses("b") == ["192.0.2.10"])
        #expect(Set(world.addresses("a") + world.addresses("c")) == ["192.0.2.11", "192.0.2.12"])
    }

    @Test func aStatusOutsideThePoolsIsReplaced() {
        var world = World([Self.pool("a", "192.0.2.10")])
        world.set(Self.service("one", status: ["198.51.100.1"]))
        #expect(world.addresses("one") == ["192.0.2.10"])
    }

    @Test func bothFamiliesComeFromOnePoolWhereItHasThem() {
        var world = World([
            Self.pool("four", "192.0.2.10-192.0.2.20"),
            Self.pool("both", "198.51.100.0/29", "2001:db8::10-2001:db8::11"),
        ])
        let both = ["10.96.0.1", "fd00::1"]
        world.set(Self.service("one", ip: both), Self.service("two", ip: both.reversed()), Self.service("four"))
        #expect(world.addresses("one") == ["198.51.100.0", "2001:db8::10"])
        #expect(world.addresses("two") == ["2001:db8::11", "198.51.100.1"])
        #expect(world.addresses("four") == ["192.0.2.10"])
        world.set(Self.service("three", ip: both))
        #expect(world.refusal("three")?.message == "no free IPv6 address in \"four\", \"both\"")
        world.set(Self.service("three", ip: both) { $0.ipFamilyPolicy = "PreferDualStack" })
        #expect(world.addresses("three") == ["192.0.2.11"])
        // Once there is one, it gets the second too, and keeps the first.
        world.remove("one")
        #expect(world.addresses("three") == ["192.0.2.11", "2001:db8::10"])
    }

    @Test func aServiceAsksForPoolsAndAddresses() {
        var world = World([
            Self.pool("a", "192.0.2.10-192.0.2.20"), Self.pool("hand", "203.0.113.0/28", change: false),
        ])
        world.set(
            Self.service("pool", annotations: ["metallb.io/address-pool": "hand"]),
            Self.service("old", annotations: ["metallb.universe.tf/loadBalancerIPs": "192.0.2.15"]),
            Self.service("field") { $0.loadBalancerIP = "203.0.113.5" },
            Self.service("taken", annotations: ["metallb.io/loadBalancerIPs": "192.0.2.15"]),
            Self.service("nowhere", annotations: ["metallb.io/loadBalancerIPs": "198.51.100.9"]),
            Self.service("unknown", annotations: ["metallb.io/address-pool": "b"]),
            Self.service("bad", annotations: ["metallb.io/loadBalancerIPs": "192.0.2.300"]),
            Self.service("family", annotations: ["metallb.io/loadBalancerIPs": "2001:db8::1"]),
            Self.service("two", annotations: ["metallb.io/loadBalancerIPs": "192.0.2.16"]) {
                $0.loadBalancerIP = "192.0.2.17"
            })
        #expect(world.addresses("pool") == ["203.0.113.0"])
        #expect(world.addresses("old") == ["192.0.2.15"])
        #expect(world.addresses("field") == ["203.0.113.5"])
        #expect(world.refusal("taken")?.reason == .addressTaken)
        #expect(world.refusal("taken")?.message.contains("192.0.2.15 is default/old's") == true)
        #expect(world.refusal("nowhere")?.message == "198.51.100.9 is in no pool; there are \"a\", \"hand\"")
        #expect(world.refusal("unknown")?.message == "there is no pool \"b\"; there are \"a\", \"hand\"")
        for name in ["bad", "family", "two"] { #expect(world.refusal(name)?.reason == .badRequest, "\(name)") }
        // Who asks for another one gets it, and leaves the first to others.
        world.set(Self.service("field") { $0.loadBalancerIP = "203.0.113.6" })
        #expect(world.addresses("field") == ["203.0.113.6"])
        world.remove("old")
        #expect(world.addresses("taken") == ["192.0.2.15"])
    }

    @Test func servicesShareAnAddressByKeyPortsAndPolicy() {
        var world = World([Self.pool("a", "192.0.2.10-192.0.2.20")])
        let shared = ["metallb.io/allow-shared-ip": "k"]
        let local: (inout Service.Spec) -> Void = {
            $0.externalTrafficPolicy = "Local"
            $0.selector = ["app": "x"]
        }
        world.set(
            Self.service("dns-tcp", port: 53, annotations: shared),
            Self.service("dns-web", port: 80, annotations: shared),
            Self.service("other", port: 81, annotations: ["metallb.io/allow-shared-ip": "other"]),
            Self.service("same-port", port: 53, annotations: shared),
            Self.service("local", port: 82, annotations: shared, local),
            Self.service("local2", port: 83, annotations: shared, local))
        #expect(world.addresses("dns-tcp") == ["192.0.2.10"] && world.addresses("dns-web") == ["192.0.2.10"])
        #expect(world.addresses("local") == world.addresses("local2"))
        let all = ["dns-tcp", "other", "same-port", "local"].flatMap { world.addresses($0) }
        #expect(Set(all).count == 4 && all.count == 4)
        // A port that comes to clash moves the one that changed.
        world.set(Self.service("dns-web", port: 53, annotations: shared))
        #expect(world.addresses("dns-tcp") == ["192.0.2.10"] && world.addresses("dns-web") != ["192.0.2.10"])
    }

    @Test func poolsAreForNamespacesAndLabels() {
        let pools: [LoadBalancer.Settings.Pool] = [
            .init(name: "all", addresses: [AddressSpan("192.0.2.0/30")].compactMap(\.self)),
            .init(
                name: "late", addresses: [AddressSpan("192.0.2.16/30")].compactMap(\.self), priority: 7,
                namespaces: ["team"]),
            .init(
                name: "team", addresses: [AddressSpan("192.0.2.8/30")].compactMap(\.self), priority: 5,
                namespaceSelector: LabelSelector(matchLabels: ["team": "x"])),
            .init(
                name: "gold", addresses: [AddressSpan("192.0.2.24/30")].compactMap(\.self), priority: 1,
                serviceSelector: LabelSelector(matchLabels: ["tier": "gold"])),
        ]
        var world = World(pools)
        world.state.set(.namespace(.init(metadata: Metadata(name: "team", labels: ["team": "x"]))))
        world.set(
            Self.service("plain"), Self.service("mine", namespace: "team"),
            Self.service("gold", namespace: "team", labels: ["tier": "gold"]))
        #expect(world.addresses("plain") == ["192.0.2.0"])
        #expect(world.addresses("mine", namespace: "team") == ["192.0.2.8"])
        #expect(world.addresses("gold", namespace: "team") == ["192.0.2.24"])
        world.set(Self.service("thief", annotations: ["metallb.io/address-pool": "team"]))
        #expect(world.refusal("thief")?.reason == .notAdmitted)
        // A namespace that loses its label loses the address.
        let namespace = ObjectKey(.namespace, name: "team")
        world.state.set(.namespace(.init(metadata: Metadata(name: "team", labels: [:]))))
        #expect(world.allocator.follow([namespace], in: world.state).map(\.name) == ["mine"])
        #expect(world.addresses("mine", namespace: "team") == ["192.0.2.16"])
    }

    @Test func endsOfBlocksAndNodesOwnAddressesAreAvoided() {
        var world = World([Self.pool("a", "192.0.1.254-192.0.2.1", avoid: true)])
        world.state.set(.node(Node(name: "n", podCIDRs: [], addresses: [IPAddress("192.0.1.254")].compactMap(\.self))))
        _ = world.allocator.follow([.node("n")], in: world.state)
        world.set(Self.service("one"), Self.service("two"))
        #expect(world.addresses("one") == ["192.0.2.1"])
        #expect(world.refusal("two")?.reason == .exhausted)
        #expect(world.allocator.pools[0].count(.v4) == 2)
    }

    @Test func othersServicesAreLeftAlone() {
        var world = World([Self.pool("a", "192.0.2.10")], class: "knetd.io/lb")
        world.set(
            Self.service("none"), Self.service("other") { $0.loadBalancerClass = "cloud" },
            Self.service("plain") { $0.type = "ClusterIP" },
            Self.service("ours") { $0.loadBalancerClass = "knetd.io/lb" })
        #expect(world.allocator.outcomes.keys.map(\.name) == ["ours"])
    }

    @Test func tenThousandServicesTakeTheirAddressesInTime() {
        var world = World([Self.pool("a", "10.200.0.0/16", "fd00::/64")])
        let services = (0..<10_000).map { Self.service("s\($0)", ip: ["10.96.0.1", "fd01::1"]) }
        for service in services { world.state.set(.service(service)) }
        let time = ContinuousClock().measure { _ = world.allocator.follow(Set(services.map(\.key)), in: world.state) }
        let given = world.allocator.outcomes.values.flatMap(\.addresses)
        #expect(given.count == 20_000 && Set(given).count == 20_000)
        #expect(time < .seconds(5))
        // One change is work for one.
        let one = ContinuousClock().measure { world.remove("s17") }
        #expect(one < .milliseconds(20))
    }

    @Test func randomChangesNeverGiveAnAddressTwice() {
        var generator = SystemRandomNumberGenerator()
        let pools = [Self.pool("a", "192.0.2.0/29"), Self.pool("b", "192.0.2.16-192.0.2.18", change: false)]
        var world = World(pools)
        for round in 0..<5_000 {
            let name = "s\(Int.random(in: 0..<16, using: &generator))"
            var annotations: [String: String] = [:]
            switch Int.random(in: 0..<8, using: &generator) {
            case 0: annotations["metallb.io/address-pool"] = ["a", "b"].randomElement()
            case 1: annotations["metallb.io/loadBalancerIPs"] = "192.0.2.\(Int.random(in: 0..<20, using: &generator))"
            case 2, 3: annotations["metallb.io/allow-shared-ip"] = "k"
            default: break
            }
            if round % 3 == 0 {
                world.remove(name)
            } else {
                world.set(Self.service(name, port: Int.random(in: 1...3, using: &generator), annotations: annotations))
            }
            if round % 500 == 499 {
                let before = world.allocator.outcomes.mapValues(\.addresses)
                world = world.restarted(pools)
                for (key, addresses) in before where !addresses.isEmpty {
                    #expect(world.allocator.outcomes[key]?.addresses == addresses, "\(key) in round \(round)")
                }
            }
            var holders: [IPAddress: [Service]] = [:]
            for (key, outcome) in world.allocator.outcomes {
                guard let service = world.state.services[key] else { continue }
                for address in outcome.addresses { holders[address, default: []].append(service) }
            }
            for (address, services) in holders where services.count > 1 {
                let ports = services.flatMap { ($0.spec?.ports ?? []).map(\.port) }
                #expect(Set(ports).count == ports.count, "\(address) in round \(round)")
                #expect(services.allSatisfy { $0.metadata.annotations?["metallb.io/allow-shared-ip"] == "k" })
            }
        }
    }
}
