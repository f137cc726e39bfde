import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport
import Testing

/// What the settings of the DNS module do.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct DNSSettingsTests {
    @Test func aStubDomainHasServersOfItsOwn() throws {
        try DNSStage.with(["stubDomains": [["domain": "corp.test", "upstreams": ["127.0.0.1:5310"]]]]) { stage in
            for name in ["ok.corp.test", "ok.a.corp.test", "ok.xcorp.test", "ok.test"] {
                let answer = try stage.query(name)
                #expect(answer.code == "NOERROR", "\(name)")
            }
            #expect(
                stage.upstreams[1].queries.filter { !$0.contains("knetd") } == ["ok.corp.test 1", "ok.a.corp.test 1"])
            #expect(stage.upstreams[0].queries.filter { !$0.contains("knetd") } == ["ok.xcorp.test 1", "ok.test 1"])
        }
    }

    @Test(arguments: [("sequential", 20...20), ("roundRobin", 10...10), ("random", 2...18)])
    func thePolicySaysWhoIsAsked(policy: String, first: ClosedRange<Int>) throws {
        try DNSStage.with(["policy": .string(policy)]) { stage in
            for index in 0..<20 { _ = try stage.query("ok.n\(index).test") }
            let asked = stage.upstreams.map { $0.queries.count { $0.contains("ok.") } }
            #expect(first.contains(asked[0]) && asked[0] + asked[1] == 20, "\(asked)")
        }
    }

    @Test func manyWhoWantTheSameAskOnce() throws {
        try DNSStage.with { stage in
            // One that takes a second.
            let command = "for i in $(seq 30); do dig +short +time=5 @\(DNSStage.clusterDNS) cutslow.test & done; wait"
            let output = try shell(command, in: stage.playground.namespace("p"))
            #expect(output == String(repeating: "192.0.2.1\n", count: 30))
            #expect(
                stage.upstreams[0].queries.filter { $0.contains("cutslow") } == [
                    "cutslow.test 1", "tcp cutslow.test 1",
                ])
        }
    }

    @Test func theNodesServersAreReadAgainWhenTheyChange() throws {
        let path = "\(FileManager.default.temporaryDirectory.path)/resolv-\(UInt32.random(in: 0...UInt32.max))"
        defer { unlink(path) }
        func write(_ server: String) throws {
            try Data("nameserver \(server)\n".utf8).write(to: URL(fileURLWithPath: path), options: .atomic)
        }
        try write("127.0.0.1")
        try DNSStage.with(["upstreams": [], "resolvConf": .string(path)]) { stage in
            let node = try stage.playground.namespace("node1")
            let servers = try (1...2).map { try UpstreamDouble(at: .v4(0x7F00_0000 + UInt32($0)), in: node) }
            defer { for server in servers { server.stop() } }
            _ = try stage.query("ok.one.test")
            try write("127.0.0.2")
            try eventually(within: 4) { servers[1].queries.contains { $0.contains("knetd.invalid") } }
            _ = try stage.query("ok.two.test")
            #expect(servers[0].queries.filter { $0.contains("ok.") } == ["ok.one.test 1"])
            #expect(servers[1].queries.filter { $0.contains("ok.") } == ["ok.two.test 1"])
        }
    }

    @Test func anUpstreamThatLeadsBackIsFoundOut() throws {
        try DNSStage.with(["upstreams": ["169.254.20.10", "192.0.2.53", "127.0.0.1:5300"]]) { stage in
            let node = try stage.playground.namespace("node1")
            _ = try shell(
                "nft 'table ip loop { chain output { type nat hook output priority -100; ip daddr 192.0.2.53 udp dport 53 dnat to 169.254.20.10; }; }'",
                in: node)
            // Upstreams are tried when addresses of this server come or go.
            kill(stage.playground.process(of: "node1"), SIGHUP)
            func faults() throws -> String {
                try stage.playground.status(of: "node1")["plugins"]?.array?.first { $0["name"] == "dns" }?["faults"]?
                    .text() ?? ""
            }
            try eventually(within: 6) {
                let faults = try faults()
                return faults.contains("169.254.20.10:53 is this server itself")
                    && faults.contains("192.0.2.53:53 asks this server")
            }
            let answer = try stage.query("ok.test")
            #expect(answer.code == "NOERROR" && answer.records == ["ok.test. a 192.0.2.1"])
        }
    }

    @Test func whoMayNotAskAndWhoAsksTooOftenIsRefused() throws {
        try DNSStage.with(["queriesPerSecond": 5]) { stage in
            usleep(1_100_000)
            let names = String(repeating: " web.default.svc.cluster.local", count: 40)
            let output = try shell(
                "dig +tries=1 +time=6 @\(DNSStage.clusterDNS)\(names)", in: stage.playground.namespace("p"))
            let codes = output.matches(of: #/status: (\w+)/#).map { String($0.output.1) }
            // Two threads at most, each with its own count.
            #expect(codes.count == 40 && codes.prefix(5).allSatisfy { $0 == "NOERROR" }, "\(codes)")
            #expect((10...35).contains(codes.count { $0 == "REFUSED" }), "\(codes)")
        }
        try DNSStage.with { stage in
            let path = stage.playground.configurationPath("node1")
            var text = try String(contentsOf: URL(fileURLWithPath: path), encoding: .utf8)
            text = try JSONValue(parsing: Data(text.utf8)).replacing(
                ["plugins", "dns", "allow"], ["192.168.77.0/24"]
            ).text()
            try Data(text.utf8).write(to: URL(fileURLWithPath: path))
            kill(stage.playground.process(of: "node1"), SIGHUP)
            try eventually(within: 3) { try stage.query("web.default.svc.cluster.local").code == "REFUSED" }
            let over = try stage.query("web.default.svc.cluster.local", "A", server: DNSStage.clusterDNS, "+tcp")
            #expect(over.code == "REFUSED")
        }
    }

    @Test func namesOfPodsAreThoseThatThereAre() throws {
        let pod: JSONValue = [
            "apiVersion": "v1", "kind": "Pod", "metadata": ["name": "x", "namespace": "default"],
            "spec": ["nodeName": "node2"],
            "status": ["phase": "Running", "podIP": "10.42.9.7", "podIPs": [["ip": "10.42.9.7"]]],
        ]
        for (setting, known, other) in [
            ("verified", "NOERROR", "NXDOMAIN"), ("insecure", "NOERROR", "NOERROR"),
            ("disabled", "NXDOMAIN", "NXDOMAIN"),
        ] {
            try DNSStage.with(
                ["pods": .string(setting), "completeSearch": false], objects: DNSStage.clusterObjects + [pod]
            ) { stage in
                let answers = try ["10-42-9-7", "10-42-9-8"].map {
                    try stage.query("\($0).default.pod.cluster.local").code
                }
                #expect(answers == [known, other], "\(setting)")
            }
        }
    }

    @Test func severalDomainsHaveTheSameNames() throws {
        try DNSStage.with(["domains": ["cluster.local", "k8s.corp.internal"], "ttl": 30]) { stage in
            let answer = try stage.query("web.default.svc.k8s.corp.internal")
            #expect(answer.records == ["web.default.svc.k8s.corp.internal. a 10.96.0.11"])
            let short = try stage.query("web.default.default.svc.k8s.corp.internal")
            #expect(short.records.contains("web.default.svc.k8s.corp.internal. a 10.96.0.11"), "\(short)")
            // Addresses are named in the first.
            let reverse = try stage.query("11.0.96.10.in-addr.arpa", "PTR")
            #expect(reverse.records == ["11.0.96.10.in-addr.arpa. ptr web.default.svc.cluster.local."])
        }
    }

    @Test func aPodWithAnotherPolicyGetsPlainAnswers() throws {
        func pod(_ spec: [String: JSONValue]) -> JSONValue {
            [
                "apiVersion": "v1", "kind": "Pod", "metadata": ["name": "p", "namespace": "default"],
                "spec": .object(["nodeName": "node1"].merging(spec) { $1 }),
            ]
        }
        let name = "ok.test.default.svc.cluster.local"
        try DNSStage.with(objects: DNSStage.clusterObjects + [pod(["dnsPolicy": "None"])]) { stage in
            try eventually { try stage.query(name).code == "NXDOMAIN" }
            try stage.put(DNSStage.clusterObjects + [pod(["dnsPolicy": "ClusterFirst"])])
            try eventually { try stage.query(name).records.contains("ok.test. a 192.0.2.1") }
            try stage.put(
                DNSStage.clusterObjects + [pod(["dnsPolicy": "ClusterFirst", "dnsConfig": ["searches": ["own.test"]]])])
            try eventually { try stage.query(name).records.contains("ok.test.own.test. a 192.0.2.1") }
        }
    }

    @Test func measurementsHaveCoreDNSsNames() throws {
        try DNSStage.with { stage in
            for name in ["web.default.svc.cluster.local", "ok.test", "ok.test", "nx.test", "nx.test"] {
                _ = try stage.query(name)
            }
            _ = try stage.query("ok.test", "A", server: DNSStage.clusterDNS, "+tcp")
            try eventually(within: 3) {
                let text = try page("/metrics", of: "node1", stage.playground)
                return [
                    "coredns_dns_requests_total{family=\"1\",proto=\"tcp\",server=\"dns://:53\",type=\"A\",zone=\".\"} 1",
                    "coredns_dns_responses_total{rcode=\"NXDOMAIN\",server=\"dns://:53\",zone=\".\"} 2",
                    "coredns_cache_hits_total{server=\"dns://:53\",type=\"denial\"} 1",
                    "coredns_cache_entries{server=\"dns://:53\",type=\"success\"} 1",
                    "coredns_proxy_request_duration_seconds_count{proxy_name=\"forward\",to=\"127.0.0.1:5300\"}",
                ].allSatisfy { text.contains($0) }
            }
        }
    }

    @Test func wrongSettingsAreRefusedWithTheirPlace() throws {
        let wrong: [(settings: JSONValue, message: String)] = [
            (["domains": []], "$.plugins.dns.domains: found"), (["domains": ["a..b"]], "$.plugins.dns.domains[0]"),
            (["upstreams": ["dns.example"]], "$.plugins.dns.upstreams[0]"),
            (["service": "kube-dns"], "$.plugins.dns.service"),
            (["stubDomains": [["domain": "corp.example"]]], "$.plugins.dns.stubDomains[0].upstreams: found nothing"),
            (["pods": "insecur"], "did you mean \"insecure\""), (["cache": ["minTtl": 1]], "did you mean \"minTTL\""),
        ]
        for (settings, message) in wrong {
            let path = "\(FileManager.default.temporaryDirectory.path)/knetd-\(UInt32.random(in: 0...UInt32.max)).json"
            defer { unlink(path) }
            let configuration: JSONValue = ["plugins": ["overlay": [:], "dns": settings]]
            try Data(configuration.text().utf8).write(to: URL(fileURLWithPath: path))
            let outcome = try knetd("config", "validate", "--config", path)
            #expect(
                outcome.status != 0 && (outcome.errors + outcome.output).contains(message),
                "\(outcome.errors)\(outcome.output)")
        }
    }
}

extension JSONValue {
    /// With another value at the end of these keys.
    fileprivate func replacing(_ keys: [String], _ value: JSONValue) -> JSONValue {
        guard let key = keys.first else { return value }
        var members = object ?? [:]
        members[key] = (members[key] ?? [:]).replacing(Array(keys.dropFirst()), value)
        return .object(members)
    }
}
