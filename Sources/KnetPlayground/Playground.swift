import FoundationEssentials
import Glibc
public import KnetCore
public import KnetLinux

/// Several nodes with pods on one machine: each node a network namespace with a daemon of its own, each pod a namespace
/// attached by executing the CNI plugin as a runtime does. Everything lies below one folder.
public final class Playground {
    /// What is remembered between two commands.
    struct Record: Codable {
        struct Node: Codable {
            let name: String
            /// The last part of its addresses on the LAN.
            let host: Int
            /// The daemon's.
            var process: Int32
        }
        struct Pod: Codable {
            let name: String
            let node: String
            let addresses: [IPAddress]
        }
        var families: [IPFamily]
        var nodes: [Node] = []
        var pods: [Pod] = []
    }

    public struct Options {
        public var name = "default"
        public var nodes = 3
        /// Families of the network between the nodes.
        public var families = IPFamily.allCases
        /// MTU of that network in bytes.
        public var mtu = 1500
        /// Configuration that every node shares; names, folders and the manifests' directory are set for each.
        public var configuration: JSONValue = [:]
        /// Makes the source of the cluster's objects once network and manifests are there.
        /// - Returns: the configuration's `cluster`; without this, the directory of manifests.
        public var cluster: ((Playground) throws -> JSONValue)?
        /// Of the daemons, beside the caller's.
        public var environment: [String: String] = [:]
        /// A program with arguments that executes the daemons, such as one that gives them files of their own.
        public var wrapper: [String] = []

        public init() {}
    }

    /// A step that failed, with what the daemon or the plugin said.
    public struct Failure: Error, CustomStringConvertible {
        public let description: String
        public init(_ description: String) { self.description = description }
    }

    private static let root = "/run/knetd-playground"

    public let directory: String
    /// The knetd that is played with. Another one is in force with the next start of a daemon.
    public var executable: String
    private var record: Record

    public var manifests: String { "\(directory)/manifests" }
    public var nodeNames: [String] { record.nodes.map(\.name) }
    public var podNames: [String] { record.pods.map(\.name) }

    private init(name: String, executable: String, record: Record) {
        directory = "\(Self.root)/\(name)"
        self.executable = executable
        self.record = record
    }

    // MARK: Up and down

    /// Builds a playground and waits until every node is ready.
    /// - Parameter executable: the knetd to run.
    public static func up(_ options: Options, executable: String) throws -> Playground {
        let playground = Playground(
            name: options.name, executable: executable, record: Record(families: options.families))
        guard !FileManager.default.fileExists(atPath: playground.directory) else {
            throw Failure(
                "playground \"\(options.name)\" is up already; `knetd playground down --name \(options.name)` ends it")
        }
        do {
            try playground.build(options)
        } catch {
            playground.down()
            throw error
        }
        return playground
    }

    /// Opens the playground that an earlier command built.
    public static func open(name: String, executable: String) throws -> Playground {
        let path = "\(root)/\(name)/playground.json"
        guard let data = try? Data(contentsOf: URL(fileURLWithPath: path)) else {
            throw Failure("no playground \"\(name)\" is up; `knetd playground up --name \(name)` builds one")
        }
        return Playground(name: name, executable: executable, record: try JSONDecoder().decode(Record.self, from: data))
    }

    private func build(_ options: Options) throws {
        for folder in ["netns", "manifests"] {
            try FileManager.default.createDirectory(atPath: "\(directory)/\(folder)", withIntermediateDirectories: true)
        }
        try save()
        for name in ["lan", "outside"] { try NetworkNamespace.create(path: namespacePath(name)) }
        let lan = Lan(namespace: try namespace("lan"), families: options.families, mtu: options.mtu)
        try lan.build()
        try lan.connectOutside(try namespace("outside"))
        let ranges = try podCIDRs(options.configuration)
        for index in 0..<options.nodes {
            let name = "node\(index + 1)"
            try NetworkNamespace.create(path: namespacePath(name))
            try lan.connect(try namespace(name), name: name, host: 11 + index)
            try writeNode(name, host: 11 + index, podCIDRs: ranges.compactMap { Self.nodeRange($0, index) })
            record.nodes.append(.init(name: name, host: 11 + index, process: 0))
        }
        let cluster = try options.cluster?(self) ?? ["manifests": ["directory": .string(manifests)]]
        for name in nodeNames { try writeConfiguration(name, base: options.configuration, cluster: cluster) }
        for name in nodeNames { try startDaemon(name, environment: options.environment, wrapper: options.wrapper) }
        for name in nodeNames { try waitUntilReady(name) }
    }

    /// Ends every daemon and removes every namespace and file.
    public func down() {
        for node in record.nodes where node.process > 0 { end(node, signal: SIGTERM) }
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "\(directory)/netns")) ?? []
        for name in names { NetworkNamespace.remove(path: "\(directory)/netns/\(name)") }
        Self.unmount(below: directory)
        try? FileManager.default.removeItem(atPath: directory)
        // The folder of all playgrounds goes with the last of them.
        rmdir(Self.root)
    }

    /// Takes away what daemons mounted there.
    public static func unmount(below directory: String) {
        for mount in Mount.all() where mount.path.hasPrefix(directory + "/") { Mount.remove(mount.path) }
    }

    // MARK: Nodes

    /// - Parameters:
    ///   - environment: beside the caller's.
    ///   - wrapper: a program with arguments that executes the daemon, such as one that takes rights away.
    public func startDaemon(
        _ name: String, environment: [String: String] = [:], wrapper: [String] = []
    ) throws {
        guard let index = record.nodes.firstIndex(where: { $0.name == name }) else { throw unknown(name) }
        let command = wrapper + [executable, "run", "--config", configurationPath(name)]
        record.nodes[index].process = try ChildProcess.start(
            command[0], Array(command.dropFirst()), environment: environment, in: try namespace(name),
            log: "\(directory)/\(name)/knetd.log")
        try save()
    }

    public func stopDaemon(_ name: String, signal: Int32 = 15) throws {
        guard let index = record.nodes.firstIndex(where: { $0.name == name }) else { throw unknown(name) }
        end(record.nodes[index], signal: signal)
        record.nodes[index].process = 0
        try save()
    }

    public func process(of node: String) -> Int32 { record.nodes.first { $0.name == node }?.process ?? 0 }

    /// Whether the node's daemon runs.
    public func isAlive(_ node: String) throws -> Bool {
        guard let node = record.nodes.first(where: { $0.name == node }) else { throw unknown(node) }
        return isDaemon(node) && waitpid(node.process, nil, WNOHANG) == 0
    }

    public func waitUntilReady(_ name: String, seconds: Int = 20) throws {
        let deadline = ContinuousClock.now + .seconds(seconds)
        var last = "it does not answer"
        while ContinuousClock.now < deadline {
            if let status = try? status(of: name) {
                if status["ready"] == true { return }
                last = status["obstacles"]?.text() ?? last
            }
            usleep(10_000)
        }
        throw Failure("\(name) is not ready after \(seconds) s: \(last)\n\(log(of: name))")
    }

    /// The daemon's status, as `knetd status --json` has it.
    public func status(of node: String) throws -> JSONValue {
        let reply = try AgentSocket.ask(
            socketPath(node), JSONEncoder().encode(AgentRequest.status), descriptor: nil, seconds: 5)
        return try JSONDecoder().decode(AgentReply.self, from: reply).body ?? .null
    }

    public func log(of node: String) -> String {
        (try? String(contentsOf: URL(fileURLWithPath: "\(directory)/\(node)/knetd.log"), encoding: .utf8)) ?? ""
    }

    public func address(of node: String, _ family: IPFamily) -> IPAddress? {
        record.nodes.first { $0.name == node }.flatMap { Lan.address(family, host: $0.host) }
    }

    public func outsideAddress(_ family: IPFamily) -> IPAddress? { Lan.address(family, host: 10, outside: true) }

    public func configurationPath(_ node: String) -> String { "\(directory)/\(node)/knetd.json" }
    public func socketPath(_ node: String) -> String { "\(directory)/\(node)/run/knetd.sock" }

    /// Writes the node's manifest.
    public func writeNode(_ name: String, host: Int, podCIDRs: [CIDR]) throws {
        let addresses = record.families.compactMap { Lan.address($0, host: host) }
        let text = """
            apiVersion: v1
            kind: Node
            metadata:
              name: \(name)
            spec:
              podCIDRs: [\(podCIDRs.map { "\"\($0)\"" }.joined(separator: ", "))]
            status:
              addresses:
            \(addresses.map { "  - {type: InternalIP, address: \"\($0)\"}" }.joined(separator: "\n"))

            """
        try Data(text.utf8).write(to: URL(fileURLWithPath: "\(manifests)/\(name).yaml"), options: .atomic)
    }

    // MARK: Pods

    /// Makes a pod and attaches it.
    /// - Parameter name: `namespace/name`, or the name alone of a pod in `default`.
    /// - Returns: its addresses.
    @discardableResult
    public func addPod(_ name: String, node: String) throws -> [IPAddress] {
        guard nodeNames.contains(node) else { throw unknown(node) }
        try makePodNamespace(name)
        return try attachPod(name, node: node)
    }

    /// Makes the namespace of a pod that is not attached yet, as a runtime does before it calls the plugin.
    @discardableResult
    public func makePodNamespace(_ name: String) throws -> NetworkNamespace {
        guard !podNames.contains(name), !nodeNames.contains(name) else { throw Failure("\"\(name)\" exists already") }
        try NetworkNamespace.create(path: namespacePath(name))
        return try namespace(name)
    }

    /// Attaches a pod whose namespace is there. Where that fails, the namespace goes too.
    /// - Returns: its addresses.
    @discardableResult
    public func attachPod(_ name: String, node: String) throws -> [IPAddress] {
        do {
            guard nodeNames.contains(node) else { throw unknown(node) }
            let result = try cni("ADD", pod: name, node: node)
            let addresses = (result["ips"]?.array ?? []).compactMap {
                $0["address"]?.string?.split(separator: "/").first.flatMap { IPAddress($0) }
            }
            record.pods.append(.init(name: name, node: node, addresses: addresses))
            try save()
            return addresses
        } catch {
            NetworkNamespace.remove(path: namespacePath(name))
            throw error
        }
    }

    public func deletePod(_ name: String) throws {
        guard let pod = record.pods.first(where: { $0.name == name }) else { throw unknown(name) }
        _ = try cni("DEL", pod: name, node: pod.node)
        NetworkNamespace.remove(path: namespacePath(name))
        record.pods.removeAll { $0.name == name }
        try save()
    }

    public func addresses(of pod: String) -> [IPAddress] { record.pods.first { $0.name == pod }?.addresses ?? [] }
    public func node(of pod: String) -> String? { record.pods.first { $0.name == pod }?.node }

    /// Executes the CNI plugin inside the node, as a runtime does.
    private func cni(_ command: String, pod: String, node: String) throws -> JSONValue {
        let parts = pod.split(separator: "/")
        let (podNamespace, podName) = (parts.count > 1 ? parts[0] : "default", parts.last ?? "")
        let outcome = try ChildProcess.run(
            executable, [],
            environment: [
                "CNI_COMMAND": command, "CNI_CONTAINERID": "playground-\(Self.fileName(pod))", "CNI_IFNAME": "eth0",
                "CNI_NETNS": namespacePath(pod), "CNI_PATH": "/opt/cni/bin",
                "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=\(podNamespace);K8S_POD_NAME=\(podName)",
            ], input: networkConfiguration(node).text(), in: try namespace(node))
        guard outcome.status == 0 else {
            throw Failure("CNI \(command) for \(pod) on \(node) failed: \(outcome.output)\(outcome.errors)")
        }
        return outcome.output.isEmpty ? [:] : try JSONValue(parsing: Data(outcome.output.utf8))
    }

    /// What the runtime gives the plugin on standard input.
    public func networkConfiguration(_ node: String) -> JSONValue {
        [
            "cniVersion": "1.1.0", "name": "playground", "type": "knetd", "socket": .string(socketPath(node)),
        ]
    }

    // MARK: Namespaces

    public func namespacePath(_ name: String) -> String { "\(directory)/netns/\(Self.fileName(name))" }

    private static func fileName(_ name: String) -> String { name.split(separator: "/").joined(separator: ".") }

    /// A node's, a pod's, or one of `lan` and `outside`.
    public func namespace(_ name: String) throws -> NetworkNamespace {
        guard FileManager.default.fileExists(atPath: namespacePath(name)) else { throw unknown(name) }
        return try NetworkNamespace(path: namespacePath(name))
    }

    private func unknown(_ name: String) -> Failure {
        let known = nodeNames + podNames + ["lan", "outside"]
        let hint = Spelling.nearest(to: name, among: known).map { "; did you mean \($0)?" } ?? ""
        return Failure("no node or pod \"\(name)\"\(hint) There are \(known.joined(separator: ", "))")
    }

    // MARK: Files and processes

    private func podCIDRs(_ configuration: JSONValue) throws -> [CIDR] {
        try configuration["network"]?["podCIDRs"]?.decode() ?? ["10.42.0.0/16", "fd42::/48"].compactMap { CIDR($0) }
    }

    private static func nodeRange(_ range: CIDR, _ index: Int) -> CIDR? {
        range.subnet(UInt64(index + 1), prefixLength: max(range.prefixLength + 4, range.family == .v4 ? 24 : 64))
    }

    private func writeConfiguration(_ node: String, base: JSONValue, cluster: JSONValue) throws {
        var members = base.object ?? [:]
        members["node"] = .object((members["node"]?.object ?? [:]).merging(["name": .string(node)]) { $1 })
        members["cluster"] = cluster
        members["agent"] = .object(
            (members["agent"]?.object ?? [:]).merging([
                "runDirectory": .string("\(directory)/\(node)/run"),
                "stateDirectory": .string("\(directory)/\(node)/state"),
            ]) { $1 })
        members["cni"] = [
            "binaryDirectory": .string("\(directory)/\(node)/bin"),
            "configDirectory": .string("\(directory)/\(node)/net.d"),
        ]
        try FileManager.default.createDirectory(atPath: "\(directory)/\(node)", withIntermediateDirectories: true)
        try Data(JSONValue.object(members).text(pretty: true).utf8)
            .write(to: URL(fileURLWithPath: configurationPath(node)), options: .atomic)
    }

    private func save() throws {
        try JSONEncoder().encode(record).write(
            to: URL(fileURLWithPath: "\(directory)/playground.json"), options: .atomic)
    }

    /// Ends the daemon, if the process is still that daemon, and waits until it is gone.
    private func end(_ node: Record.Node, signal: Int32) {
        guard isDaemon(node) else { return }
        kill(node.process, signal)
        for turn in 0..<1000 {
            // A child of this process stays a zombie until it is waited for; another's is gone by itself.
            if waitpid(node.process, nil, WNOHANG) == node.process || kill(node.process, 0) != 0 { return }
            if turn == 500 { kill(node.process, SIGKILL) }
            usleep(10_000)
        }
    }

    private func isDaemon(_ node: Record.Node) -> Bool {
        guard node.process > 0, let data = try? Data(contentsOf: URL(fileURLWithPath: "/proc/\(node.process)/cmdline"))
        else { return false }
        return String(decoding: data, as: UTF8.self).contains(configurationPath(node.name))
    }
}

extension IPFamily: Codable {}
