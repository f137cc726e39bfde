import KnetCore
import Testing

@testable import ServiceProxyPlugin

/// Which frontends a balancer without memory is given.
@Suite struct SightTests {
    private static func frontends(
        _ spec: Service.Spec, annotations: [String: String] = [:], endpoints: [String] = ["10.42.1.2", "10.42.2.3"]
    ) -> [PlainFrontend] {
        let service = Service(
            metadata: Metadata(name: "web", namespace: "default", annotations: annotations), spec: spec)
        let slice = EndpointSlice(
            name: "web-x", namespace: "default", service: "web", addressType: "IPv4",
            endpoints: endpoints.map { .init(addresses: [$0], conditions: nil, hostname: nil, nodeName: "node2") },
            ports: [.init(name: nil, port: 8080, protocol: "TCP")])
        let viewpoint = Viewpoint(node: "node1", zone: nil, nodePortAddresses: [.v4(0xC0A8_4D0B)])
        return ServicePlan(service, slices: [slice], from: viewpoint).frontends.values.map { PlainFrontend($0) }
            .sorted { $0.id < $1.id }
    }

    private static func spec(_ change: (inout Service.Spec) -> Void = { _ in }) -> Service.Spec {
        var spec = Service.Spec(type: "ClusterIP", clusterIP: "10.96.0.1", clusterIPs: ["10.96.0.1"])
        spec.ports = [.init(name: nil, protocol: "TCP", port: 80, targetPort: .number(8080), nodePort: nil)]
        change(&spec)
        return spec
    }

    @Test func anyEndpointWillDo() throws {
        let frontend = try #require(Self.frontends(Self.spec()).first)
        #expect(frontend.size == 2 && Set(frontend.slots.map(\.port)) == [8080])
        #expect(Set(frontend.slots.map { "\($0.address)" }) == ["10.42.1.2", "10.42.2.3"])
    }

    /// What clients outside get is not asked for here: with `Local` a node without endpoints serves its own clients.
    @Test func nodePortsAreServedToClientsOfTheNode() {
        let all = Self.frontends(
            Self.spec {
                $0.type = "NodePort"
                $0.ports?[0].nodePort = 30_080
                $0.externalTrafficPolicy = "Local"
            })
        #expect(all.map(\.id.port) == [80, 30_080] && all.allSatisfy { $0.slots.count == 2 })
    }

    @Test func whatNeedsMemoryOrRefusesIsLeftToTheRules() {
        let left = [
            Self.frontends(Self.spec { $0.sessionAffinity = "ClientIP" }),
            Self.frontends(Self.spec(), annotations: [ServicePlan.balanceAnnotation: "consistent"]),
            Self.frontends(Self.spec(), endpoints: []),
            Self.frontends(Self.spec { $0.internalTrafficPolicy = "Local" }),
            Self.frontends(Self.spec { $0.ports?[0].protocol = "SCTP" }),
        ]
        // Their places are theirs all the same.
        for frontends in left { #expect(frontends.map(\.size) == [0]) }
        #expect(left[0][0].slots.count == 2)
    }
}
