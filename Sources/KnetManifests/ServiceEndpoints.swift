import KnetCore

/// Stands in for Kubernetes' EndpointSlice controller where the manifests give a Service a selector but no slices: the
/// endpoints are the selected pods (https://kubernetes.io/docs/concepts/services-networking/service/).
enum ServiceEndpoints {
    /// Slices for every Service that needs some, one for each address family of its pods.
    static func slices(for objects: [ObjectKey: AnyClusterObject]) -> [EndpointSlice] {
        var services: [Service] = []
        var served: Set<ObjectKey> = []
        var podsByNamespace: [String: [Pod]] = [:]
        for case let (key, object) in objects {
            switch object {
            case .service(let service): services.append(service)
            case .endpointSlice(let slice):
                if let name = slice.serviceName {
                    served.insert(ObjectKey(.service, namespace: key.namespace, name: name))
                }
            case .pod(let pod): podsByNamespace[key.namespace, default: []].append(pod)
            default: break
            }
        }
        return services.filter { !served.contains($0.key) }.flatMap { service in
            slices(for: service, pods: podsByNamespace[service.key.namespace] ?? [])
        }
    }

    static func slices(for service: Service, pods: [Pod]) -> [EndpointSlice] {
        guard let selector = service.spec?.selector, !selector.isEmpty else { return [] }
        let selected = pods.filter { pod in
            selector.allSatisfy { pod.metadata.labels?[$0.key] == $0.value }
                && !["Succeeded", "Failed"].contains(pod.status?.phase ?? "")
        }.sorted { $0.key < $1.key }
        return IPFamily.allCases.flatMap { family in
            // Pods may give the same port name different numbers, so that each set of numbers is a slice of its own.
            let groups = Dictionary(grouping: selected.filter { pod in pod.addresses.contains { $0.family == family } })
            {
                ports(of: service, in: $0)
            }
            return groups.sorted { ($0.value.first?.key ?? .local) < ($1.value.first?.key ?? .local) }.enumerated().map
            {
                index, group in
                EndpointSlice(
                    name: "\(service.metadata.name)-\(family.description.lowercased())-\(index)",
                    namespace: service.key.namespace, service: service.metadata.name, addressType: family.description,
                    endpoints: group.value.map {
                        endpoint(of: $0, family, publish: service.spec?.publishNotReadyAddresses)
                    },
                    ports: group.key)
            }
        }
    }

    private static func endpoint(of pod: Pod, _ family: IPFamily, publish: Bool?) -> EndpointSlice.Endpoint {
        let isTerminating = pod.metadata.isTerminating
        return EndpointSlice.Endpoint(
            addresses: pod.addresses.filter { $0.family == family }.prefix(1).map(\.description),
            conditions: .init(
                ready: (pod.isReady && !isTerminating) || publish == true, serving: pod.isReady || publish == true,
                terminating: isTerminating),
            hostname: pod.spec?.hostname, nodeName: pod.spec?.nodeName)
    }

    /// The service's ports with the numbers they have in this pod; a name that the pod lacks is left out.
    private static func ports(of service: Service, in pod: Pod) -> [EndpointSlice.Port] {
        (service.spec?.ports ?? []).compactMap { port in
            let transport = port.protocol ?? "TCP"
            let number: Int? =
                switch port.targetPort ?? .number(port.port) {
                case .number(let number): number
                case .name(let name):
                    containerPort(name, transport, of: pod)
                }
            return number.map { EndpointSlice.Port(name: port.name, port: $0, protocol: transport) }
        }
    }

    private static func containerPort(_ name: String, _ transport: String, of pod: Pod) -> Int? {
        for container in pod.spec?.containers ?? [] {
            for port in container.ports ?? [] where port.name == name && (port.protocol ?? "TCP") == transport {
                return port.containerPort
            }
        }
        return nil
    }
}
