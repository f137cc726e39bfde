import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux

/// The plugins of containernetworking/plugins, configured as one does for Kubernetes.
struct ReferencePlugins {
    /// A contender, or why there can be none.
    typealias Candidate = (name: String, contender: Result<PluginChain, Missing>)

    /// What this machine does not have.
    struct Missing: Error, CustomStringConvertible {
        let description: String
    }

    let directory: String
    /// Where host-local keeps its allocations.
    let state: String

    /// bridge with masquerade, host-local and portmap: what Flannel's configuration file asks for.
    /// - Parameter backend: `iptables` or `nftables`, for both masquerade and host ports.
    func chain(backend: String) -> Candidate {
        let name = "bridge + host-local + portmap, \(backend)"
        return (
            name,
            Result {
                try require(
                    ["bridge", "host-local", "portmap"], programs: [backend == "nftables" ? "nft" : "iptables"])
                let bridge: [String: JSONValue] = [
                    "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipMasqBackend": .string(backend),
                    "ipam": ipam(backend, ["10.90.0.0/16"]),
                ]
                let portmap: [String: JSONValue] = [
                    "capabilities": ["portMappings": true], "backend": .string(backend),
                ]
                return PluginChain(
                    name: name, node: try Self.node(),
                    plugins: [
                        plugin("bridge", network: backend, bridge),
                        plugin("portmap", network: backend, portmap, takesPorts: true),
                    ], path: directory)
            }.mapError(Self.missing)
        )
    }

    /// ptp alone, with both families.
    func dualStack() -> Candidate {
        let name = "ptp + host-local"
        return (
            name,
            Result {
                try require(["ptp", "host-local"], programs: [])
                let members: [String: JSONValue] = ["ipam": ipam("dual", ["10.90.0.0/16", "fd90::/64"])]
                return PluginChain(
                    name: name, node: try Self.node(), plugins: [plugin("ptp", network: "dual", members)],
                    path: directory)
            }.mapError(Self.missing)
        )
    }

    /// Older plugins do not know the key `backend` and use iptables whatever it says.
    /// - Throws: `Missing` where an ADD leaves no nftables table of portmap's.
    static func requireNftables(_ chain: PluginChain, pod: BenchPod) throws {
        let result: JSONValue
        do {
            result = try chain.add(pod).result
        } catch {
            throw Missing(description: "a trial ADD failed: \(error)")
        }
        let table = try chain.node.run { try Nftables().list(table: "ip cni_hostport") }
        _ = try chain.delete(pod, after: result)
        guard table != nil else {
            throw Missing(
                description: "these plugins have no nftables backend; 1.6 and later do: --reference-plugins names them")
        }
    }

    private func ipam(_ network: String, _ subnets: [String]) -> JSONValue {
        [
            "type": "host-local", "dataDir": .string("\(state)/ipam-\(network)"),
            "ranges": .array(subnets.map { [["subnet": .string($0)]] }),
            "routes": .array(subnets.map { ["dst": $0.contains(":") ? "::/0" : "0.0.0.0/0"] }),
        ]
    }

    private func plugin(
        _ type: String, network: String, _ members: [String: JSONValue], takesPorts: Bool = false
    ) -> PluginChain.Plugin {
        let common: [String: JSONValue] = [
            "cniVersion": "1.0.0", "name": .string("bench-\(network)"), "type": .string(type),
        ]
        return PluginChain.Plugin(
            executable: "\(directory)/\(type)", configuration: .object(common.merging(members) { $1 }),
            takesPorts: takesPorts)
    }

    /// A node of its own for each: none is slowed down by another's rules.
    private static func node() throws -> NetworkNamespace {
        let node = try NetworkNamespace.anonymous()
        try node.run { try NetlinkSocket().request(.changeLink(index: NetlinkSocket.index(of: "lo"), up: true)) }
        return node
    }

    private func require(_ plugins: [String], programs: [String]) throws {
        for name in plugins where !FileManager.default.isExecutableFile(atPath: "\(directory)/\(name)") {
            throw Missing(description: "there is no \(directory)/\(name)")
        }
        let folders = (getenv("PATH").map { String(cString: $0) } ?? "").split(separator: ":")
        for name in programs
        where !folders.contains(where: { FileManager.default.isExecutableFile(atPath: "\($0)/\(name)") }) {
            throw Missing(description: "\(name), which the plugins execute, is not installed")
        }
    }

    private static func missing(_ error: any Error) -> Missing {
        error as? Missing ?? Missing(description: "\(error)")
    }
}
