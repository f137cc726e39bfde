import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// The folder of one run and the playgrounds in it.
final class Stage {
    let options: BenchOptions
    let directory: String
    private var playgrounds: [Playground] = []

    init(_ options: BenchOptions) throws {
        self.options = options
        directory = "/run/knetd-bench-\(getpid())"
        try FileManager.default.createDirectory(atPath: "\(directory)/netns", withIntermediateDirectories: true)
    }

    /// Builds a playground that lasts until `clear`.
    /// - Parameters:
    ///   - environment: of the daemons.
    ///   - cluster: makes the source of the cluster's objects, instead of manifests.
    func playground(
        _ name: String, nodes: Int, _ configuration: JSONValue, families: [IPFamily] = [.v4],
        daemon environment: [String: String] = [:], cluster: ((Playground) throws -> JSONValue)? = nil
    ) throws -> Playground {
        try Progress.step("building \(nodes) node\(nodes == 1 ? "" : "s"): \(name)")
        var options = Playground.Options()
        options.name = "bench-\(getpid())-\(playgrounds.count + 1)"
        options.nodes = nodes
        options.families = families
        options.configuration = configuration
        options.environment = environment
        options.cluster = cluster
        let playground = try Playground.up(options, executable: self.options.knetd)
        playgrounds.append(playground)
        return playground
    }

    /// Makes pods' namespaces for the time of `body`.
    func withPods<Result>(_ count: Int, _ body: ([BenchPod]) throws -> Result) throws -> Result {
        let pods = (0..<count).map { BenchPod(index: $0, path: "\(directory)/netns/pod\($0)") }
        defer { for pod in pods { NetworkNamespace.remove(path: pod.path) } }
        for pod in pods { try NetworkNamespace.create(path: pod.path) }
        return try body(pods)
    }

    /// Ends every daemon and removes every namespace and file.
    func clear() {
        for playground in playgrounds { playground.down() }
        playgrounds = []
        for name in (try? FileManager.default.contentsOfDirectory(atPath: "\(directory)/netns")) ?? [] {
            NetworkNamespace.remove(path: "\(directory)/netns/\(name)")
        }
        try? FileManager.default.removeItem(atPath: directory)
    }

    /// Ranges of IPv4 alone: what most clusters have, and what all contenders can do alike.
    static let onlyFour: JSONValue = ["podCIDRs": ["10.42.0.0/16"]]
}
