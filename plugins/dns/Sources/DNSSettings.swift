import KnetCore

/// `plugins.dns` in the configuration.
public struct DNSSettings: Codable, Sendable, Equatable {
    public struct Host: Codable, Sendable, Equatable {
        let name: String
        let addresses: [String]
    }

    public struct StubDomain: Codable, Sendable, Equatable {
        let domain: String
        let upstreams: [String]
    }

    public struct Cache: Codable, Sendable, Equatable {
        let megabytes: Int
        let minTTL: Int
        let maxTTL: Int
        let maxNegativeTTL: Int
        let prefetchAfter: Int
        let staleSeconds: Int
    }

    let domains: [String]
    let service: String
    let listen: [String]
    let ttl: Int
    let pods: PodNames
    let completeSearch: Bool
    let upstreams: [String]
    let policy: String
    let stubDomains: [StubDomain]
    let hosts: [Host]
    let resolvConf: String
    let maxConcurrent: Int
    let cache: Cache
    let allow: [CIDR]
    let queriesPerSecond: Int
    let logEvery: Int
    let threads: Int

    /// Which names of pods by their addresses there are, as CoreDNS tells them apart.
    enum PodNames: String, Codable, CaseIterable, Sendable {
        case disabled
        /// Whatever address is asked for, in any namespace.
        case insecure
        /// Those of pods that there are: all of the cluster's pods are followed for this.
        case verified
    }

    static let shape = PluginSettings(
        name: "dns", isDataplane: false, isDefault: false,
        fields: [
            Field(
                "domains", .list(of: .text(domain), atLeast: 1), default: ["cluster.local"],
                "The cluster's domains; addresses are named in the first. The kubelet's clusterDomain is one of them."),
            Field(
                "service",
                .text(.readable(what: "namespace/name of a Service") { $0.split(separator: "/").count == 2 }),
                default: "kube-system/kube-dns",
                "The Service whose ClusterIPs pods ask: it is answered on every node by the node itself."),
            Field(
                "listen", .list(of: .text(.ipAddress)), default: ["169.254.20.10", "fd00:6b6e:6574::53"],
                "Other addresses at which the node's pods, and the node itself, are answered."),
            Field("ttl", .integer(0...3600), default: 5, "Seconds for which the cluster's records may be kept."),
            Field(
                "pods", .text(.oneOf(PodNames.allCases.map(\.rawValue))), default: "insecure",
                "Names of pods by their addresses (10-42-0-7.default.pod.cluster.local): of any address, of pods that there are, or none."
            ),
            Field(
                "completeSearch", .boolean, default: true,
                "Whether a name that a pod's resolver would try in one domain after the other is found at its first query."
            ),
            Field(
                "upstreams", .list(of: .text(upstream)), default: [],
                "Servers for all other names: 192.0.2.1, 192.0.2.1:5353 or tls://192.0.2.1#dns.example; []: those of resolvConf."
            ),
            Field(
                "policy", .text(.oneOf(Forwarder.Policy.allCases.map(\.rawValue))), default: "sequential",
                "Which upstream is asked first; one that does not answer comes last."),
            Field(
                "stubDomains",
                .list(
                    of: .object([
                        Field("domain", .text(domain), isRequired: true, "The domain."),
                        Field(
                            "upstreams", .list(of: .text(upstream), atLeast: 1), isRequired: true,
                            "Servers for names in it."),
                    ])), default: [], "Domains that have servers of their own."),
            Field(
                "hosts",
                .list(
                    of: .object([
                        Field("name", .text(domain), isRequired: true, "The name."),
                        Field(
                            "addresses", .list(of: .text(.ipAddress), atLeast: 1), isRequired: true, "Its addresses."),
                    ])), default: [], "Names that are known without asking."),
            Field(
                "resolvConf", .either([.text(.absolutePath), .text(.oneOf([""]))]), default: "",
                "The file with the node's servers and search domains; \"\": systemd-resolved's, else /etc/resolv.conf."),
            Field(
                "maxConcurrent", .integer(1...100_000), default: 1_000,
                "Queries that may wait for other servers at a time, each for some 50 kB; more fail at once."),
            Field(
                "cache",
                .object([
                    Field("megabytes", .integer(1...4096), default: 16, "Memory for other servers' answers."),
                    Field("minTTL", .integer(0...3600), default: 0, "Seconds for which an answer is kept at least."),
                    Field(
                        "maxTTL", .integer(1...604_800), default: 3600, "Seconds for which an answer is kept at most."),
                    Field(
                        "maxNegativeTTL", .integer(1...10_800), default: 300,
                        "Seconds for which it is kept at most that there is nothing."),
                    Field(
                        "prefetchAfter", .integer(0...1000), default: 3,
                        "How often a name is asked for before it is fetched again ahead of time; 0: never."),
                    Field(
                        "staleSeconds", .integer(0...604_800), default: 86_400,
                        "Seconds for which an answer that is out of date is told while no server can be reached; 0: never."
                    ),
                ]), default: [:], "What is kept of other servers' answers."),
            Field("allow", .list(of: .text(.cidr)), default: [], "Whose queries are answered; []: everybody's."),
            Field(
                "queriesPerSecond", .integer(0...1_000_000), default: 0,
                "Queries that one client may ask in a second; 0: as many as it likes."),
            Field("logEvery", .integer(0...1_000_000), default: 0, "Every so many-th query is logged; 0: none."),
            Field(
                "threads", .integer(0...64), default: 0, "Threads that answer; 0: as many as processors, two at most."),
        ])

    private static let domain = TextFormat.readable(what: "a domain name such as \"cluster.local\"") {
        DomainName($0).map { $0 != .root } ?? false
    }
    private static let upstream = TextFormat.readable(
        what: "a server such as \"192.0.2.1\", \"192.0.2.1:5353\" or \"tls://192.0.2.1#dns.example\""
    ) { UpstreamAddress($0) != nil }
}
