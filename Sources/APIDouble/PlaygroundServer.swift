import Dispatch
import FoundationEssentials
import Glibc
public import KnetCore
import KnetLinux
public import KnetPlayground

/// An API server on the playground's router, and what is needed to start and stop it from a test that does not suspend.
public final class PlaygroundServer: Sendable {
    public let double: APIDouble
    private let socket: Int32
    public static let port = 6443

    /// Where pods find the server in a cluster; the test certificate names it.
    public static let serviceAddress = "10.96.0.1"

    public init(_ playground: Playground, tls: APIDouble.Options.TLS? = nil, tokens: Set<String>? = nil) throws {
        var options = APIDouble.Options()
        socket = try Self.listen(in: playground.namespace("lan"))
        options.listener = .socket(socket)
        options.tls = tls
        options.tokens = tokens
        options.bookmarkInterval = .seconds(1)
        double = try waitFor { [options] in try await APIDouble.start(options) }
    }

    /// Takes over what the playground wrote as manifests.
    public func take(_ playground: Playground) throws {
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
            let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue) | O_CLOEXEC, 0)
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

    /// - Returns: the path of a kubeconfig that names this server.
    public func writeKubeconfig(_ playground: Playground) throws -> String {
        let path = "\(playground.directory)/kubeconfig"
        try Data(
            """
            current-context: c
            contexts: [{name: c, context: {cluster: c}}]
            clusters: [{name: c, cluster: {server: "http://192.168.77.1:\(Self.port)"}}]
            """.utf8
        ).write(to: URL(fileURLWithPath: path))
        return path
    }

    public func stop() {
        try? waitFor { [double] in await double.stop() }
        // While the socket listens, the kernel goes on accepting.
        shutdown(socket, Int32(SHUT_RDWR))
    }

    deinit { close(socket) }

    public func start() throws { try waitFor { [double] in try await double.restart() } }
    public func node(_ name: String) -> JSONValue? { double.object(.nodes, name: name) }
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
