import HashTreeCollections
import KnetCore
import Testing

@testable import LoadBalancerPlugin

/// Which node answers for which address.
@Suite struct OwnershipTests {
    private static let pools = [
        LoadBalancer.Settings.Pool(name: "a", addresses: [AddressSpan("192.0.2.0/24")].compactMap(\.self))
    ]

    private static func state(services: Int, endpoints: [String], isLocal: Bool = false) throws -> ClusterState {
        var state = ClusterState()
        for name in ["n1", "n2", "n3"] { state.set(.node(Node(name: name, podCIDRs: [], addresses: []))) }
        for number in 0..<services {
            var spec = Service.Spec(type: "LoadBalancer", clusterIP: "10.96.0.1", clusterIPs: ["10.96.0.1"])
            if isLocal { spec.externalTrafficPolicy = "Local" }
            let service = Service(metadata: Metadata(name: "s\(number)", namespace: "default"), spec: spec).with(
                .init(addresses: [.v4(0xC000_0200 + UInt32(number))], condition: nil))
            state.set(.service(service))
            var slice = EndpointSlice(
                metadata: Metadata(
                    name: "s\(number)-x", namespace: "default", labels: [EndpointSlice.serviceLabel: "s\(number)"]),
                addressType: "IPv4", endpoints: nil, ports: nil)
            slice.endpoints = endpoints.map {
                .init(addresses: ["10.42.0.1"], conditions: nil, hostname: nil, nodeName: $0)
            }
            state.set(.endpointSlice(slice))
        }
        return state
    }

    private static func layer2() throws -> LoadBalancer.Settings.Layer2 {
        try JSONValue.object(["interfaces": [], "pools": [], "interval": 300, "multiplier": 3]).decode()
    }

    /// Every node's opinion.
    private static func owners(_ state: ClusterState, gone: Set<String> = []) throws -> [String: Set<IPAddress>] {
        var owners: [String: Set<IPAddress>] = [:]
        for own in ["n1", "n2", "n3"] where !gone.contains(own) {
            var ownership = Ownership(.init(pools: pools), try layer2())
            ownership.follow(Set(state.keys), in: state, own: own) {
                gone.contains($0.key.name) ? .away("silent") : .alive
            }
            owners[own] = ownership.owned(by: own)
        }
        return owners
    }

    @Test func eachAddressHasOneOwnerAndAGonesNodesAddressesAloneMove() throws {
        let state = try Self.state(services: 200, endpoints: ["n1"])
        let all = try Self.owners(state)
        #expect(all.values.map(\.count).reduce(0, +) == 200)
        #expect(Set(all.values.joined()).count == 200)
        for owned in all.values { #expect(owned.count > 40) }
        let two = try Self.owners(state, gone: ["n2"])
        #expect(Set(two.values.joined()).count == 200)
        for name in ["n1", "n3"] { #expect(two[name]?.isSuperset(of: all[name] ?? []) == true) }
    }

    @Test func localServicesAreAnsweredForWhereTheirEndpointsAre() throws {
        let state = try Self.state(services: 40, endpoints: ["n1", "n3"], isLocal: true)
        let owners = try Self.owners(state)
        #expect(owners["n2"] == [])
        #expect((owners["n1"]?.count ?? 0) + (owners["n3"]?.count ?? 0) == 40)
        var ownership = Ownership(.init(pools: Self.pools), try Self.layer2())
        ownership.follow(Set(state.keys), in: state, own: "n2") { _ in .away("silent") }
        let reasons = ownership.answers.values.flatMap { $0.values }
        #expect(reasons.allSatisfy { $0.node == nil && $0.reason == "n1: silent; n3: silent" })
    }

    @Test func withoutEndpointsNobodyAnswers() throws {
        #expect(try Self.owners(Self.state(services: 3, endpoints: [])).values.allSatisfy(\.isEmpty))
    }

    @Test func excludedNodesDoNotAnswer() throws {
        var state = try Self.state(services: 30, endpoints: ["n1"])
        var node = Node(name: "n1", podCIDRs: [], addresses: [])
        node.metadata.labels = ["node.kubernetes.io/exclude-from-external-load-balancers": ""]
        state.set(.node(node))
        let owners = try Self.owners(state)
        #expect(owners["n1"] == [] && Set(owners.values.joined()).count == 30)
    }
}
