import APIDouble
import Dispatch
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Nodes that know the cluster from an API server, which stands in the network between them.
@Suite(.enabled(if: Root.isAvailable)) struct KubernetesTests {
    /// An API server on the playground's router, and what is needed to start and stop it from a test that does not suspend.
    final class Server: Sendable {
        let double: APIDouble
        static let port = 6443

        /// - Parameter revision: of the history's begin.
        init(_ playground: Playground, tls: APIDouble.Options.TLS? = nil) throws {
            var options = APIDouble.Options()
            options.listener = .socket(try Self.listen(in: playground.namespace("lan")))
            options.tls = tls
            options.bookmarkInterval = .seconds(1)
            double = try waitFor { [options] in try await APIDouble.start(options) }
        }

        /// Takes over what the playground wrote as manifests.
        func take(_ playground: Playground) throws {
            for file in try FileManager.default.contentsOfDirectory(atPath: playground.manifests) {
                let path = "\(playground.manifests)/\(file)"
                let text = try String(contentsOf: URL(fileURLWithPath: path), encoding: .utf8)
                try double.put(try Self.node(text))
                unlink(path)
            }
        }

        /// The playground's own form of a Node, which has one line for each list.
        private static func node(_ text: String) throws -> JSONValue {
            func after(_ prefix: String) -> [String] {
                text.split(separator: "\n").filter { $0.contains(prefix) }
                    .compactMap { $0.split(separator: prefix, maxSplits: 1).last.map(String.init) }
            }
            let name = after("name: ").first ?? ""
            let ranges = try JSONValue(parsing: Data((after("podCIDRs: ").first ?? "[]").utf8))
            let addresses = after("address: ").map { $0.split(separator: "\"").first.map(String.init) ?? "" }
            return [
                "apiVersion": "v1", "kind": "Node", "metadata": ["name": .string(name)], "spec": ["podCIDRs": ranges],
                "status": [
                    "addresses": .array(addresses.map { ["type": "InternalIP", "address": .string($0)] })
                ],
            ]
        }

        private static func listen(in namespace: NetworkNamespace) throws -> Int32 {
            try namespace.run {
                let socket = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | O_CLOEXEC, 0)
                var yes: Int32 = 1
                setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
                var address = sockaddr_in()
                address.sin_family = sa_family_t(AF_INET)
                address.sin_port = in_port_t(UInt16(port).bigEndian)
                let size = socklen_t(MemoryLayout<sockaddr_in>.size)
                try withUnsafePointer(to: &address) { pointer in
                    try pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                        _ = try syscall("bind the API server") { bind(socket, pointer, size) }
                    }
                }
                return socket
            }
        }

        func stop() { try? waitFor { [double] in await double.stop() } }
        func start() throws { try waitFor { [double] in try await double.restart() } }
        func node(_ name: String) -> JSONValue? { double.object(.nodes, name: name) }
    }

    private func withServer<Result>(
        _ plugin: String = "overlay", nodes: Int = 2, _ body: (Playground, Server) throws -> Result
    ) throws -> Result {
        var server: Server?
        defer { server?.stop() }
        return try withPlayground(
            nodes: nodes, ["plugins": .object([plugin: [:]]), "agent": ["resyncSeconds": 3600]],
            cluster: { playground in
                let started = try Server(playground)
                try started.take(playground)
                server = started
                let path = "\(playground.directory)/kubeconfig"
                try Data(
                    """
                    current-context: c
                    contexts: [{name: c, context: {cluster: c}}]
                    clusters: [{name: c, cluster: {server: "http://192.168.77.1:\(Server.port)"}}]
                    """.utf8
                ).write(to: URL(fileURLWithPath: path))
                return ["kubernetes": ["kubeconfig": .string(path), "snapshotSeconds": 1]]
            }
        ) { playground in try body(playground, try #require(server)) }
    }

    /// The demo: every pair of pods, both families, with both dataplanes.
    @Test(arguments: ["overlay", "routed"]) func nodesThatKnowOnlyTheAPIReachEachOther(plugin: String) throws {
        try withServer(plugin) { playground, server in
            for node in playground.nodeNames { try playground.addPod("\(node)-a", node: node) }
            let mtu: [IPFamily: Int] = plugin == "overlay" ? [.v4: 1450, .v6: 1430] : [.v4: 1500, .v6: 1500]
            let report = try ConnectivityReport(playground, mtu: mtu)
            #expect(report.failures.isEmpty, "\(report.failures)")
            for name in playground.nodeNames {
                try eventually(within: 5) { server.node(name)?["status"]?["conditions"] != nil }
                let node = try #require(server.node(name))
                let annotations = node["metadata"]?["annotations"]
                let prefix = "flannel.alpha.coreos.com/"
                #expect(annotations?["\(prefix)backend-type"]?.string == (plugin == "overlay" ? "vxlan" : "host-gw"))
                #expect(annotations?["\(prefix)public-ip"]?.string == playground.address(of: name, .v4)?.description)
                let condition = node["status"]?["conditions"]?.array?.first
                #expect(condition?["type"] == "NetworkUnavailable" && condition?["status"] == "False")
                #expect(condition?["reason"] == "KnetdIsUp" && condition?["lastTransitionTime"] != nil)
            }
            // Each Node was written by its own node, and not again and again.
            let writes = server.double.requests.filter { $0.verb == "patch" }
            #expect(writes.allSatisfy { $0.resource == "nodes" && $0.subresource == "status" && $0.code == 200 })
            #expect(writes.count <= 2 * playground.nodeNames.count, "\(writes.map(\.body))")
        }
    }

    @Test func aNodeThatBootsWithoutTheAPIServerServesFromTheSnapshot() throws {
        try withServer { playground, server in
            try playground.addPod("b", node: "node2")
            let snapshot = "\(playground.directory)/node1/state/cluster.snapshot"
            try eventually(within: 10) { FileManager.default.fileExists(atPath: snapshot) }
            try eventually(within: 10) { server.node("node1")?["status"]?["conditions"] != nil }
            usleep(1_500_000)
            try playground.stopDaemon("node1")
            server.stop()
            try forgetBoot(of: "node1", playground)
            let boot = "\(playground.directory)/boot_id"
            try Data("another boot\n".utf8).write(to: URL(fileURLWithPath: boot))

            let began = ContinuousClock.now
            try start("node1", boot: boot, playground)
            try playground.addPod("a", node: "node1")
            let seconds = (ContinuousClock.now - began) / .seconds(1)
            #expect(seconds < 2, "attached after \(seconds) s")
            for address in playground.addresses(of: "b") {
                _ = try Prober(playground.namespace("a")).ping(address)
            }
            let status = try playground.status(of: "node1")
            #expect(status["source"]?["isFromSnapshot"] == true && status["source"]?["isLive"] == false)
            try eventually(within: 10) {
                try playground.status(of: "node1")["source"]?["troubles"]?.array?.first?.string?
                    .contains("cannot be reached") == true
            }
            #expect(try metric("knetd_source_snapshot", of: "node1", playground) == 1)

            // What happened meanwhile is taken up, and nothing else is touched.
            let writes = try metric("knetd_kernel_writes_total", of: "node1", playground)
            try server.double.put([
                "apiVersion": "v1", "kind": "Node", "metadata": ["name": "node9"],
                "spec": ["podCIDRs": ["10.42.9.0/24"]],
                "status": ["addresses": [["type": "InternalIP", "address": "192.168.77.99"]]],
            ])
            try server.start()
            try eventually(within: 20) { try metric("knetd_source_live", of: "node1", playground) == 1 }
            try eventually(within: 5) {
                try shell("ip route show proto 107", in: playground.namespace("node1")).contains("10.42.9.0/24")
            }
            // A peer is one route, one neighbour, one FDB entry.
            let more = try metric("knetd_kernel_writes_total", of: "node1", playground) - writes
            #expect(more == 3, "\(more) kernel writes for one node more")
            print("from the snapshot: first pod attached after \(Int(seconds * 1000)) ms")
        }
    }
}

/// Waits on this thread for what is asynchronous.
private func waitFor<Result: Sendable>(_ body: @escaping @Sendable () async throws -> Result) throws -> Result {
    nonisolated(unsafe) var result: Swift.Result<Result, any Error>?
    let done = DispatchSemaphore(value: 0)
    Task.detached {
        do { result = .success(try await body()) } catch { result = .failure(error) }
        done.signal()
    }
    done.wait()
    guard let result else { preconditionFailure("the semaphore was signalled without a result") }
    return try result.get()
}
