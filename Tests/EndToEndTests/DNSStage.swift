import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// One node whose pods are answered by the DNS module.
struct DNSStage {
    let playground: Playground
    let upstreams: [UpstreamDouble]

    static let clusterDNS = "10.96.0.10"
    static let upstreamPorts: [UInt16] = [5_300, 5_310]

    /// Runs `body` with a node, the pods `p` in `default` and two upstreams on the node's loopback.
    static func with<Result>(
        _ settings: [String: JSONValue] = [:], objects: [JSONValue] = clusterObjects, nodes: Int = 1,
        plugins more: [String: JSONValue] = [:], wrapper: [String] = [],
        cluster: ((Playground) throws -> JSONValue)? = nil, _ body: (DNSStage) throws -> Result
    ) throws -> Result {
        var dns: [String: JSONValue] = ["upstreams": .array(upstreamPorts.map { .string("127.0.0.1:\($0)") })]
        dns.merge(settings) { $1 }
        let plugins: [String: JSONValue] = ["overlay": [:], "serviceProxy": [:], "dns": .object(dns)]
        return try withPlayground(
            nodes: nodes, ["plugins": .object(plugins.merging(more) { $1 })], wrapper: wrapper, cluster: cluster
        ) { playground in
            let node = try playground.namespace("node1")
            let upstreams = try upstreamPorts.map { try UpstreamDouble(at: .v4(0x7F00_0001), port: $0, in: node) }
            defer { for upstream in upstreams { upstream.stop() } }
            let stage = DNSStage(playground: playground, upstreams: upstreams)
            if cluster == nil { try stage.put(objects) }
            try playground.addPod("p", node: "node1")
            try eventually(within: 5) { try stage.query("dns-version.cluster.local", "TXT").code == "NOERROR" }
            return try body(stage)
        }
    }

    func put(_ objects: [JSONValue]) throws {
        let list: JSONValue = ["apiVersion": "v1", "kind": "List", "items": .array(objects)]
        try Data(list.text().utf8).write(to: URL(fileURLWithPath: "\(playground.manifests)/dns.json"), options: .atomic)
    }

    struct Answer: Equatable {
        var code = ""
        /// `name type data` of each record, in small letters, sorted.
        var records: [String] = []
        var flags: Set<String> = []
        /// Of the question, as it came back.
        var name = ""
    }

    /// Asks by dig from the pod.
    func query(_ name: String, _ type: String = "A", server: String = clusterDNS, _ options: String...) throws -> Answer
    {
        let output = try shell(
            "dig +tries=1 +time=6 +nocookie \(options.joined(separator: " ")) @\(server) \(name) \(type) || true",
            in: playground.namespace("p"))
        var answer = Answer()
        var section = ""
        for line in output.split(separator: "\n") {
            if let status = line.firstMatch(of: #/status: (\w+)/#) { answer.code = String(status.output.1) }
            if let flags = line.firstMatch(of: #/^;; flags: ([a-z ]+);/#) {
                answer.flags = Set(flags.output.1.split(separator: " ").map(String.init))
            }
            if line.hasPrefix(";; "), line.hasSuffix("SECTION:") { section = String(line) }
            if section.contains("QUESTION"), line.hasPrefix(";"), !line.hasPrefix(";;") {
                answer.name = String(line.dropFirst().split(whereSeparator: \.isWhitespace)[0])
            }
            guard !line.hasPrefix(";"), section.contains("ANSWER") || section.contains("AUTHORITY") else { continue }
            let words = line.split(whereSeparator: \.isWhitespace)
            guard words.count > 4 else { continue }
            // A serial number is the time of the last change.
            let data = words[3] == "SOA" ? words[4...5].joined(separator: " ") : words[4...].joined(separator: " ")
            answer.records.append("\(words[0]) \(words[3]) \(data)".lowercased())
        }
        answer.records.sort()
        return answer
    }

    static let clusterObjects: [JSONValue] = [
        ["apiVersion": "v1", "kind": "Namespace", "metadata": ["name": "default"]],
        ["apiVersion": "v1", "kind": "Namespace", "metadata": ["name": "kube-system"]],
        service(
            "kube-dns", "kube-system", [clusterDNS, "fd96::a"], ports: [("dns", 53, "UDP"), ("dns-tcp", 53, "TCP")]),
        service("web", "default", ["10.96.0.11", "fd96::b"], ports: [("http", 80, "TCP")]),
        service("db", "default", ["None"], ports: [("pg", 5432, "TCP")]),
        [
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": ["name": "db-1", "namespace": "default", "labels": ["kubernetes.io/service-name": "db"]],
            "addressType": "IPv4", "ports": [["name": "pg", "port": 5432, "protocol": "TCP"]],
            "endpoints": [
                ["addresses": ["10.42.0.50"], "hostname": "db-0"], ["addresses": ["10.42.0.51"]],
                ["addresses": ["10.42.0.52"], "conditions": ["ready": false]],
            ],
        ],
        [
            "apiVersion": "v1", "kind": "Service", "metadata": ["name": "ext", "namespace": "default"],
            "spec": ["type": "ExternalName", "externalName": "ok.test"],
        ],
    ]

    static func service(
        _ name: String, _ namespace: String, _ addresses: [String],
        ports: [(name: String, port: Int, transport: String)]
    ) -> JSONValue {
        [
            "apiVersion": "v1", "kind": "Service",
            "metadata": ["name": .string(name), "namespace": .string(namespace)],
            "spec": [
                "clusterIP": .string(addresses[0]), "clusterIPs": .array(addresses.map(JSONValue.string)),
                "ports": .array(
                    ports.map {
                        ["name": .string($0.name), "port": .integer($0.port), "protocol": .string($0.transport)]
                    }),
            ],
        ]
    }
}
