import KnetCore
import Synchronization

/// What load balancers ask a node: whether it has endpoints of a Service whose external policy is `Local`, and whether its
/// proxy works (https://kubernetes.io/docs/reference/networking/virtual-ips/#external-traffic-policy).
final class ServiceHealth: Sendable {
    struct Check: Equatable {
        let port: Int
        let localEndpoints: Int
    }

    private let checks = Mutex<[ObjectKey: Check]>([:])
    private let address: Endpoint?
    /// Whether this node is to stay.
    private let isEligible = Atomic(true)

    init(address: Endpoint?) { self.address = address }

    /// Notes what a Service was planned with.
    func note(_ key: ObjectKey, _ service: Service?, _ plan: ServicePlan?) {
        var check: Check?
        if let spec = service?.spec, spec.type == "LoadBalancer", spec.externalTrafficPolicy == "Local",
            let port = spec.healthCheckNodePort, (1...65535).contains(port), let plan
        {
            check = Check(port: port, localEndpoints: plan.localEndpoints.count)
        }
        checks.withLock { $0[key] = check }
    }

    func servers(
        isEligible: Bool, isHealthy: @escaping @Sendable () -> Bool
    ) -> [Endpoint: @Sendable (String) -> WebPage] {
        self.isEligible.store(isEligible, ordering: .relaxed)
        var servers: [Endpoint: @Sendable (String) -> WebPage] = [:]
        let checks = checks.withLock { $0 }
        for (key, check) in checks.sorted(by: { $0.key > $1.key }) {
            guard let endpoint = Endpoint("[::]:\(check.port)") else { continue }
            // Of two with one port the lesser key has its way.
            servers[endpoint] = { [weak self] _ in self?.page(key, isHealthy: isHealthy()) ?? Self.gone }
        }
        if let address {
            servers[address] = { [weak self] path in self?.page(of: path, isHealthy: isHealthy()) ?? Self.gone }
        }
        return servers
    }

    private static let gone = WebPage(status: 503, text: "stopping\n")

    private func page(_ key: ObjectKey, isHealthy: Bool) -> WebPage {
        guard let check = checks.withLock({ $0[key] }) else { return Self.gone }
        let body: JSONValue = [
            "service": ["namespace": .string(key.namespace), "name": .string(key.name)],
            "localEndpoints": .integer(check.localEndpoints), "serviceProxyHealthy": .boolean(isHealthy),
        ]
        return WebPage(
            status: check.localEndpoints > 0 && isHealthy ? 200 : 503, text: body.text() + "\n",
            type: "application/json",
            headers: [
                "X-Content-Type-Options": "nosniff", "X-Load-Balancing-Endpoint-Weight": "\(check.localEndpoints)",
            ])
    }

    /// `/healthz` says too whether new connections should come to this node; `/livez` does not.
    private func page(of path: String, isHealthy: Bool) -> WebPage {
        let isEligible = isEligible.load(ordering: .relaxed)
        guard ["/healthz", "/livez"].contains(path) else { return WebPage(status: 404, text: "/healthz or /livez\n") }
        let isGood = isHealthy && (path == "/livez" || isEligible)
        let body: JSONValue = ["healthy": .boolean(isHealthy), "nodeEligible": .boolean(isEligible)]
        return WebPage(status: isGood ? 200 : 503, text: body.text() + "\n", type: "application/json")
    }
}
