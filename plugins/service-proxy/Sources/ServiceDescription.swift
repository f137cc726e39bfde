import HashTreeCollections
import KnetCore

/// A Service for people: what the kernel holds of it, and why an endpoint is not used.
enum ServiceDescription {
    struct Unknown: Error, CustomStringConvertible {
        let description: String
    }

    /// - Parameter kernel: what the kernel holds, by address and port.
    static func all(
        _ name: String?, in state: ClusterState, from viewpoint: Viewpoint, kernel: [FrontendID: Frontend]
    ) throws -> JSONValue {
        let keys = state.services.keys.filter { key in
            name == nil || key.name == name || "\(key.namespace)/\(key.name)" == name
        }.sorted()
        guard name == nil || !keys.isEmpty else {
            let known = Spelling.nearest(to: name ?? "", among: state.services.keys.map(\.name))
            throw Unknown(
                description: "there is no Service \"\(name ?? "")\"" + (known.map { "; did you mean \($0)?" } ?? ""))
        }
        return .array(
            keys.compactMap { key in
                state.services[key].map { describe($0, state.slices(of: key), viewpoint, kernel) }
            })
    }

    private static func describe(
        _ service: Service, _ slices: [EndpointSlice], _ viewpoint: Viewpoint, _ kernel: [FrontendID: Frontend]
    ) -> JSONValue {
        let plan = ServicePlan(service, slices: slices, from: viewpoint)
        let ports = plan.ports.map { port -> JSONValue in
            let frontends = port.frontends.map { id -> JSONValue in
                let held = kernel[id]
                return [
                    "address": .string("\(Backend(address: id.address, port: id.port))"),
                    "isInKernel": .boolean(held != nil),
                    "endpoints": .array((held?.backends(.cluster) ?? []).sorted().map { .string("\($0)") }),
                    "forClientsOutside": held?.facts.contains(.member(.external)) == true
                        ? .array((held?.backends(.external) ?? []).sorted().map { .string("\($0)") }) : .null,
                    "balance": held?.facts.lazy.compactMap { fact -> String? in
                        if case .member(.balancer(.cluster, let balancer)) = fact {
                            balancer.method.rawValue
                        } else {
                            nil
                        }
                    }.first.map(JSONValue.string) ?? .null,
                ]
            }
            return [
                "name": .string(port.name), "transport": .string(port.transport.rawValue.uppercased()),
                "port": .integer(Int(port.port)), "family": .string(port.family.description),
                "frontends": .array(frontends),
                "unused": .array(
                    port.choice.unused.sorted { $0.key < $1.key }.map {
                        ["endpoint": .string("\($0.key)"), "reason": .string($0.value)]
                    }),
            ]
        }
        return [
            "namespace": .string(service.key.namespace), "name": .string(service.key.name),
            "type": .string(service.spec?.type ?? "ClusterIP"), "ports": .array(ports),
            "problems": .array(plan.problems.map(JSONValue.string)),
        ]
    }
}
