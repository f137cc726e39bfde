import KnetCore
import KnetLinux
import Logging
import Testing

@testable import DNSPlugin

struct OrderTests {
    /// The API server's answers come in any order; the last may bring nothing that the addresses depend on.
    @Test(arguments: [[ObjectKey.Kind.service, .endpointSlice], [.endpointSlice, .service]])
    func addressesAreServedWhicheverKindIsToldLast(order: [ObjectKey.Kind]) throws {
        var problems: [ConfigurationProblem] = []
        let settings = Shape.object(DNS.settings.fields).normalise(
            ["upstreams": ["127.0.0.1:1"], "threads": 1], path: "$", problems: &problems)
        let dns = try DNS(
            settings.decode(), nftables: Nftables(), pool: NetlinkPool(), kept: KeptDescriptors(),
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        let object: JSONValue = [
            "apiVersion": "v1", "kind": "Service", "metadata": ["name": "kube-dns", "namespace": "kube-system"],
            "spec": ["clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"]],
        ]
        let service = try AnyClusterObject(object, .service)
        let store = StateStore()
        let follower = store.follow {}
        var served: [DNSEntry] = []
        func look() throws {
            let change = follower.take()
            guard dns.affected(by: change.keys, in: change.state).contains(.local) else { return }
            served = try dns.entries(for: .local, in: change.state)
        }
        store.update([.local]) { $0.set(local: LocalNode(name: "node1", podCIDRs: [], uplinks: [:])) }
        try look()
        for kind in order {
            store.update(kind == .service ? [service.key] : [], told: [kind]) { state in
                if kind == .service { state.set(service) }
            }
            try look()
        }
        #expect(served.contains(.address(.v4(0x0A60_000A), isServed: true)))
    }
}
