import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// Between two pods of one node through a ClusterIP, among few Services and many.
struct ServicePaths {
    static let direct = "the pod's own address, knetd ebpf"
    static let sizes = [10, 10_000]

    static func ebpf(_ size: Int) -> String { "knetd ebpf, \(size) services" }
    static func nftables(_ size: Int) -> String { "knetd nftables, \(size) services" }

    /// Where `ServiceContents` has every Service's endpoints.
    private static let port: UInt16 = 8080

    private let stage: Stage

    init(_ stage: Stage) { self.stage = stage }

    func enter(_ turns: inout PathTurns) throws {
        for size in stage.options.isQuick ? [10] : Self.sizes {
            let contents = ServiceContents(services: size)
            // A frontend has a power of two of slots, and one.
            let ebpf: JSONValue = ["ebpf": ["frontends": 131_072, "slots": 1_048_576], "serviceProxy": [:]]
            try enter(&turns, Self.ebpf(size), ebpf, contents, beside: size == Self.sizes[0])
            try enter(&turns, Self.nftables(size), ["routed": [:], "serviceProxy": [:]], contents)
            let layout = OtherLayout.iptables
            try turns.enter(layout.row(size)) {
                let (playground, path) = try pods(layout.row(size), ["routed": [:]])
                _ = try playground.namespace("node1").run {
                    try RunningLayout(layout, contents, probe: path.address).load()
                }
                return path
            }
        }
    }

    /// - Parameter beside: whether the pod is asked without the Service too.
    private func enter(
        _ turns: inout PathTurns, _ name: String, _ plugins: JSONValue, _ contents: ServiceContents,
        beside: Bool = false
    ) throws {
        do {
            let (playground, path) = try pods(name, plugins)
            try Self.manifests(contents, path.address).write(
                to: URL(fileURLWithPath: "\(playground.manifests)/services.json"), options: .atomic)
            try Self.wait(playground, path, contents, atSocket: plugins["ebpf"] != nil)
            if beside {
                try turns.enter(Self.direct) {
                    return Path(
                        name: Self.direct, client: path.client, server: path.server, address: path.address,
                        port: path.port)
                }
            }
            try turns.enter(name) { path }
        } catch let error as Progress.Interrupted {
            throw error
        } catch {
            turns.fail(name, error)
        }
    }

    private func pods(_ name: String, _ plugins: JSONValue) throws -> (Playground, Path) {
        let playground = try stage.playground(name, nodes: 1, ["network": Stage.onlyFour, "plugins": plugins])
        for pod in ["client", "server"] { try playground.addPod(pod, node: "node1") }
        guard let address = playground.addresses(of: "server").first(where: { $0.family == .v4 }) else {
            throw Playground.Failure("the server has no IPv4 address")
        }
        return (
            playground,
            Path(
                name: name, client: try playground.namespace("client"), server: try playground.namespace("server"),
                address: address, port: Self.port,
                service: Endpoint(address: ServiceContents.probeAddress, port: 80))
        )
    }

    /// Until all Services are in force.
    private static func wait(
        _ playground: Playground, _ path: Path, _ contents: ServiceContents, atSocket: Bool
    ) throws {
        let name =
            atSocket ? "knetd_bpf_socket_map_entries{map=\"knet_frontends\"}" : "knetd_services"
        for _ in 0..<600 {
            try Progress.check()
            let page = try? playground.namespace("node1").run { try HTTP.get("127.0.0.1", port: 9469, "/metrics") }
            let line = page?.split(separator: "\n").first { $0.hasPrefix(name + " ") }
            let count = line.flatMap { Double($0.split(separator: " ").last ?? "") } ?? 0
            if Int(count) > contents.services, (try? Load(path: path, placement: .free).connections(seconds: 0)) != nil
            {
                return
            }
            usleep(100_000)
        }
        throw Playground.Failure("\(contents.services) services are not in force within a minute")
    }

    /// As Kubernetes has them.
    private static func manifests(_ contents: ServiceContents, _ probe: IPAddress) throws -> Data {
        let objects = contents.objects + contents.probe(probe, port: port)
        let items = objects.compactMap { object -> JSONValue? in
            switch object {
            case .service(let service):
                let spec = service.spec
                return [
                    "apiVersion": "v1", "kind": "Service",
                    "metadata": ["name": .string(service.metadata.name), "namespace": "default"],
                    "spec": [
                        "clusterIP": .string(spec?.clusterIP ?? ""),
                        "ports": [["protocol": "TCP", "port": 80, "targetPort": .integer(Int(port))]],
                    ],
                ]
            case .endpointSlice(let slice):
                return [
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": [
                        "name": .string(slice.metadata.name), "namespace": "default",
                        "labels": ["kubernetes.io/service-name": .string(String(slice.metadata.name.dropLast(2)))],
                    ],
                    "addressType": "IPv4",
                    "ports": [["protocol": "TCP", "port": .integer(Int(port))]],
                    "endpoints": .array(
                        (slice.endpoints ?? []).map {
                            ["addresses": .array($0.addresses.map(JSONValue.string)), "conditions": ["ready": true]]
                        }),
                ]
            default: return nil
            }
        }
        return Data(
            JSONValue.object(["apiVersion": "v1", "kind": "List", "items": .array(items)]).text().utf8)
    }
}
