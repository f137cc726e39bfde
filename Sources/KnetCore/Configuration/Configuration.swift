public import FoundationEssentials

/// knetd's configuration: one JSON file, every default filled in.
public struct Configuration: Sendable, Equatable, Codable {
    public struct Cluster: Sendable, Equatable, Codable {
        public struct Manifests: Sendable, Equatable, Codable {
            public let directory: String
        }
        /// The API server.
        public struct Kubernetes: Sendable, Equatable, Codable {
            /// `nil` takes the service account of the pod that knetd runs in.
            public let kubeconfig: String?
            /// `nil` takes the kubeconfig's own.
            public let context: String?
            /// Instead of the kubeconfig's or the service account's.
            public let servers: [String]
            /// Seconds between two snapshots at least.
            public let snapshotSeconds: Int
            /// Where the Lease is by which one knetd of all is elected to write.
            public let leaseNamespace: String
            /// After so many seconds without a word from the one that writes another takes its place.
            public let leaseSeconds: Int
        }
        public let manifests: Manifests
        /// Where it is there, manifests are not read.
        public let kubernetes: Kubernetes?
    }

    public struct Node: Sendable, Equatable, Codable {
        /// This node's name; the host's name where the file is silent.
        public let name: String?
        /// The interface towards the other nodes, or `auto`.
        public let uplink: String
        /// This node's part of `network.podCIDRs`, for a node that no Node object describes.
        public let podCIDRs: [CIDR]?
    }

    public struct Network: Sendable, Equatable, Codable {
        /// The ranges of all pods of the cluster.
        public let podCIDRs: [CIDR]
        public let mtu: MTUSetting
        public let masquerade: Bool
        /// Destinations outside the cluster that see the pods' own addresses.
        public let masqueradeExcept: [CIDR]

        public init(podCIDRs: [CIDR], mtu: MTUSetting, masquerade: Bool, masqueradeExcept: [CIDR]) {
            self.podCIDRs = podCIDRs
            self.mtu = mtu
            self.masquerade = masquerade
            self.masqueradeExcept = masqueradeExcept
        }
    }

    public struct Agent: Sendable, Equatable, Codable {
        public let runDirectory: String
        public let stateDirectory: String
        public let statusAddresses: [Endpoint]
        public let resyncSeconds: Int
        public let logLevel: String

        /// The socket that the CNI mode and `knetd status` talk to.
        public var socketPath: String { runDirectory + "/knetd.sock" }

        /// What was written to Services that manifests describe.
        public var statusPath: String { stateDirectory + "/services.json" }
    }

    public struct CNI: Sendable, Equatable, Codable {
        public let binaryDirectory: String
        public let configDirectory: String
        public let configFile: String
        /// The network's name, the CNI specification's `name`.
        public let networkName: String
        public let timeoutSeconds: Int
    }

    public let cluster: Cluster
    public let node: Node
    public let network: Network
    public let plugins: [String: JSONValue]
    public let agent: Agent
    public let cni: CNI
}

/// A fixed MTU, or the one that follows from the uplink and the dataplane.
public enum MTUSetting: Sendable, Equatable, Codable {
    case automatic
    case fixed(Int)

    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let bytes = try? container.decode(Int.self) { self = .fixed(bytes) } else { self = .automatic }
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .automatic: try container.encode("auto")
        case .fixed(let bytes): try container.encode(bytes)
        }
    }
}

/// What the configuration must know of a plugin.
public struct PluginSettings: Sendable {
    /// The key under `plugins`.
    public let name: String
    /// Whether it carries pod traffic between nodes; exactly one such plugin runs.
    public let isDataplane: Bool
    /// Whether it runs where the configuration names no plugins.
    public let isDefault: Bool
    public let fields: [Field]
    /// What is wrong with its part, which begins at `path`, in this configuration.
    public let problems: @Sendable (_ configuration: Configuration, _ path: String) -> [ConfigurationProblem]

    public init(
        name: String, isDataplane: Bool, isDefault: Bool = true, fields: [Field],
        problems: @escaping @Sendable (Configuration, String) -> [ConfigurationProblem] = { _, _ in [] }
    ) {
        self.name = name
        self.isDataplane = isDataplane
        self.isDefault = isDefault
        self.fields = fields
        self.problems = problems
    }
}

/// Reads configuration files for one set of compiled-in plugins.
public struct ConfigurationReader: Sendable {
    public let compiledIn: [PluginSettings]

    /// Every plugin that knetd has or will have, so that a name can be told from a typing error.
    static let knownPlugins = [
        "overlay", "routed", "ebpf", "serviceProxy", "dns", "networkPolicy", "flows", "loadBalancer", "bgp",
    ]

    public init(compiledIn: [PluginSettings]) { self.compiledIn = compiledIn }

    /// Reads the file at `path`.
    /// - Throws: `ConfigurationError`, whose problems name the JSON path, what was found and what is allowed.
    public func read(path: String) throws(ConfigurationError) -> Configuration {
        let data: Data
        do {
            data = try contents(ofFile: path)
        } catch {
            throw ConfigurationError([
                .init(
                    path: path, found: "a file that cannot be read (\(error))",
                    allowed: "a readable JSON file, named by --config")
            ])
        }
        return try read(data)
    }

    public func read(_ data: Data) throws(ConfigurationError) -> Configuration {
        let value: JSONValue
        do {
            value = try JSONValue(parsing: data)
        } catch {
            throw ConfigurationError([.init(path: "$", found: error.description, allowed: "one JSON object")])
        }
        return try read(value)
    }

    func read(_ value: JSONValue) throws(ConfigurationError) -> Configuration {
        var problems: [ConfigurationProblem] = notCompiledIn(value)
        let normal = shape.normalise(value, path: "$", problems: &problems)
        guard problems.isEmpty else { throw ConfigurationError(Self.withoutRepeats(problems)) }
        let configuration: Configuration
        do {
            configuration = try normal.decode()
        } catch {
            throw ConfigurationError([.init(path: "$", found: "\(error)", allowed: "see knetd config schema")])
        }
        problems = contradictions(in: configuration) + twoSources(value)
        for plugin in compiledIn where configuration.plugins[plugin.name] != nil {
            problems += plugin.problems(configuration, "$.plugins.\(plugin.name)")
        }
        guard problems.isEmpty else { throw ConfigurationError(problems) }
        return configuration
    }

    /// The JSON Schema of the file.
    public var schema: JSONValue {
        var members = shape.schema.object ?? [:]
        members["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        members["title"] = "knetd configuration"
        let dataplanes = compiledIn.filter(\.isDataplane).map(\.name)
        if !dataplanes.isEmpty, var properties = members["properties"]?.object,
            var plugins = properties["plugins"]?.object
        {
            plugins["oneOf"] = .array(dataplanes.map { ["required": [.string($0)]] })
            properties["plugins"] = .object(plugins)
            members["properties"] = .object(properties)
        }
        return .object(members)
    }

    /// The whole file's shape.
    var shape: Shape {
        .object([
            Field(
                "cluster",
                .object([
                    Field(
                        "manifests",
                        .object([
                            Field(
                                "directory", .text(.absolutePath), default: "/etc/knetd/manifests",
                                "Directory of Kubernetes manifests (YAML or JSON), watched for changes.")
                        ]), default: [:], "The cluster as files."),
                    Field(
                        "kubernetes",
                        .object([
                            Field(
                                "kubeconfig", .text(.absolutePath),
                                "The kubeconfig that says where the API server is and who asks; default: the service account of the pod that knetd runs in."
                            ),
                            Field(
                                "context", .text(.any(what: "a context's name")),
                                "The kubeconfig's context; default: its current-context."),
                            Field(
                                "servers", .list(of: .text(.serverURL)), default: [],
                                "API servers, tried in turn; []: the one that the kubeconfig or the service account names. Before knetd runs, the address of the Service \"kubernetes\" is not reachable."
                            ),
                            Field(
                                "snapshotSeconds", .integer(1...86400), default: 60,
                                "Seconds between two savings of the cluster's state, from which a node boots without the API server."
                            ),
                            Field(
                                "leaseNamespace", .text(.any(what: "a namespace's name")), default: "kube-system",
                                "Namespace of the Lease by which one knetd of all is elected to write addresses of Services."
                            ),
                            Field(
                                "leaseSeconds", .integer(2...3600), default: 15,
                                "After so many seconds without a word from the one that is elected another takes its place."
                            ),
                        ]), "The cluster as the API server has it, instead of manifests."),
                ]), default: [:], "Where the cluster's objects come from."),
            Field(
                "node",
                .object([
                    Field("name", .text(.any(what: "a node's name")), "This node's name; default: the host's name."),
                    Field(
                        "uplink", .text(.interfaceName), default: "auto",
                        "Interface towards the other nodes; auto: the one with the Node's InternalIP, else the default route's."
                    ),
                    Field(
                        "podCIDRs", .list(of: .text(.cidr), atLeast: 1),
                        "This node's part of network.podCIDRs; default: the Node object's spec.podCIDRs, else, without any Node object, the first part."
                    ),
                ]), default: [:], "This node."),
            Field(
                "network",
                .object([
                    Field(
                        "podCIDRs", .list(of: .text(.cidr), atLeast: 1), default: ["10.42.0.0/16", "fd42::/48"],
                        "The ranges of all pods: IPv4, IPv6, or both."),
                    Field(
                        "mtu", .either([.text(.oneOf(["auto"])), .integer(1280...65535)]), default: "auto",
                        "MTU of pods in bytes; auto: the uplink's less what the dataplane adds."),
                    Field(
                        "masquerade", .boolean, default: true,
                        "Whether traffic that leaves the cluster takes the node's address."),
                    Field(
                        "masqueradeExcept", .list(of: .text(.cidr)), default: [],
                        "Destinations outside the cluster that see the pods' own addresses."),
                ]), default: [:], "The pod network."),
            Field(
                "plugins",
                .object(
                    compiledIn.map {
                        Field($0.name, .object($0.fields), "Enables the plugin \($0.name); {} takes its defaults.")
                    }), default: defaultPlugins, "The enabled plugins, exactly one of them a dataplane."),
            Field(
                "agent",
                .object([
                    Field(
                        "runDirectory", .text(.absolutePath), default: "/run/knetd",
                        "Socket and other files of this boot."),
                    Field(
                        "stateDirectory", .text(.absolutePath), default: "/var/lib/knetd", "The store of allocations."),
                    Field(
                        "statusAddresses", .list(of: .text(.endpoint)), default: ["127.0.0.1:9469"],
                        "Where /healthz, /readyz and /metrics are served; []: nowhere."),
                    Field(
                        "resyncSeconds", .integer(1...86400), default: 300,
                        "Seconds between full comparisons with the kernel."),
                    Field(
                        "logLevel", .text(.oneOf(["trace", "debug", "info", "notice", "warning", "error"])),
                        default: "info", "The least level that is logged."),
                ]), default: [:], "The daemon itself."),
            Field(
                "cni",
                .object([
                    Field(
                        "binaryDirectory", .text(.absolutePath), default: "/opt/cni/bin",
                        "Where the runtime looks for plugins."),
                    Field(
                        "configDirectory", .text(.absolutePath), default: "/etc/cni/net.d",
                        "Where the runtime looks for network configurations."),
                    Field(
                        "configFile", .text(.any(what: "a file name")), default: "10-knetd.conflist",
                        "The file that knetd install writes there."),
                    Field(
                        "networkName", .text(.any(what: "a network's name")), default: "knetd",
                        "The CNI network's name."),
                    Field(
                        "timeoutSeconds", .integer(1...600), default: 30,
                        "Seconds that the CNI mode waits for the daemon."),
                ]), default: [:], "The container runtime's side."),
        ])
    }

    /// The first dataplane and the other plugins of this build that run without being asked for.
    private var defaultPlugins: JSONValue {
        let chosen = compiledIn.first { $0.isDataplane }.map { [$0] } ?? []
        let others = compiledIn.filter { !$0.isDataplane && $0.isDefault }
        return .object(Dictionary(uniqueKeysWithValues: (chosen + others).map { ($0.name, JSONValue.object([:])) }))
    }

    private func notCompiledIn(_ value: JSONValue) -> [ConfigurationProblem] {
        let present = Set(compiledIn.map(\.name))
        return (value["plugins"]?.object ?? [:]).keys.sorted()
            .filter { Self.knownPlugins.contains($0) && !present.contains($0) }
            .map {
                ConfigurationProblem(
                    path: "$.plugins.\($0)", found: "a plugin that this knetd was built without",
                    allowed: present.isEmpty ? "no plugin" : present.sorted().joined(separator: ", "),
                    suggestion: "a build with --traits \($0.prefix(1).uppercased() + $0.dropFirst())")
            }
    }

    /// A plugin left out of the build is also an unknown key; the first says more.
    private static func withoutRepeats(_ problems: [ConfigurationProblem]) -> [ConfigurationProblem] {
        var seen: Set<String> = []
        return problems.filter { seen.insert($0.path).inserted }
    }

    private func twoSources(_ value: JSONValue) -> [ConfigurationProblem] {
        guard value["cluster"]?["manifests"] != nil, value["cluster"]?["kubernetes"] != nil else { return [] }
        return [
            .init(
                path: "$.cluster", found: "both manifests and kubernetes",
                allowed: "one source of the cluster's objects",
                suggestion: "only \"kubernetes\"")
        ]
    }

    private func contradictions(in configuration: Configuration) -> [ConfigurationProblem] {
        var problems: [ConfigurationProblem] = []
        let dataplanes = compiledIn.filter { $0.isDataplane && configuration.plugins[$0.name] != nil }.map(\.name)
        let choices = compiledIn.filter(\.isDataplane).map(\.name)
        if dataplanes.count > 1 || (dataplanes.isEmpty && !choices.isEmpty) {
            problems.append(
                .init(
                    path: "$.plugins",
                    found: dataplanes.isEmpty
                        ? "no dataplane" : "\(dataplanes.count) dataplanes (\(dataplanes.joined(separator: ", ")))",
                    allowed: "exactly one of \(choices.joined(separator: ", "))",
                    suggestion: dataplanes.isEmpty ? "\"\(choices[0])\": {}" : "only \"\(dataplanes[0])\""))
        }
        let network = configuration.network
        for (index, cidr) in network.podCIDRs.enumerated() {
            let path = "$.network.podCIDRs[\(index)]"
            if let other = network.podCIDRs[..<index].first(where: { $0.overlaps(cidr) }) {
                problems.append(
                    .init(path: path, found: "\(cidr), which overlaps \(other)", allowed: "ranges that do not overlap"))
            }
            if let reason = cidr.reservedFor {
                problems.append(
                    .init(path: path, found: "\(cidr), which overlaps \(reason)", allowed: "ranges that pods can have"))
            }
            let smallest = AddressRange.longestPrefix(cidr.family)
            if cidr.prefixLength > smallest {
                problems.append(
                    .init(
                        path: path, found: "\(cidr), too small for a node",
                        allowed: "a prefix length of at most \(smallest)"))
            }
        }
        for (index, cidr) in (configuration.node.podCIDRs ?? []).enumerated() {
            if let fault = network.fault(ofNodeRange: cidr, among: configuration.node.podCIDRs ?? []) {
                problems.append(
                    .init(path: "$.node.podCIDRs[\(index)]", found: "\(cidr), \(fault.found)", allowed: fault.allowed))
            }
        }
        let file = configuration.cni.configFile
        if file.contains("/") || file.hasPrefix(".") || !file.hasSuffix(".conflist") {
            problems.append(
                .init(
                    path: "$.cni.configFile", found: "\"\(file)\"",
                    allowed: "a file name without \"/\" that ends with .conflist", suggestion: "\"10-knetd.conflist\""))
        }
        if !CNIRequest.isValid(name: configuration.cni.networkName) {
            problems.append(
                .init(
                    path: "$.cni.networkName", found: "\"\(configuration.cni.networkName)\"",
                    allowed: "a letter or digit, then letters, digits, \"_\", \".\" or \"-\""))
        }
        return problems
    }
}

extension Configuration.Network {
    /// Why `range` cannot be a node's part of the pod network; `nil` where it can.
    /// - Parameter ranges: all that the node has.
    public func fault(ofNodeRange range: CIDR, among ranges: [CIDR]) -> (found: String, allowed: String)? {
        guard podCIDRs.contains(where: { $0.contains(range) }) else {
            return (
                "outside the pod network",
                "a part of network.podCIDRs (\(podCIDRs.map(\.description).joined(separator: ", ")))"
            )
        }
        let longest = AddressRange.longestPrefix(range.family)
        guard range.prefixLength <= longest else {
            return ("too small for pods", "a prefix length of at most \(longest)")
        }
        guard ranges.first(where: { $0.family == range.family }) == range else {
            return ("a second range of \(range.family)", "one range of each family")
        }
        return nil
    }
}
