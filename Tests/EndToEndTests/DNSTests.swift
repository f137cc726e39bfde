import APIDouble
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport
import Testing

/// The DNS module, asked by real resolvers from a pod.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct DNSTests {
    static let soa = "cluster.local. soa ns.dns.cluster.local. hostmaster.cluster.local."

    /// The specification's rows, and what a forwarding server owes.
    static let rows: [(name: String, type: String, code: String, records: [String])] = [
        ("web.default.svc.cluster.local", "A", "NOERROR", ["web.default.svc.cluster.local. a 10.96.0.11"]),
        ("web.default.svc.cluster.local", "AAAA", "NOERROR", ["web.default.svc.cluster.local. aaaa fd96::b"]),
        ("web.default.svc.cluster.local", "MX", "NOERROR", [soa]),
        ("none.default.svc.cluster.local", "SRV", "NXDOMAIN", [soa]),
        ("default.svc.cluster.local", "A", "NOERROR", [soa]),
        (
            "_http._tcp.web.default.svc.cluster.local", "SRV", "NOERROR",
            ["_http._tcp.web.default.svc.cluster.local. srv 0 100 80 web.default.svc.cluster.local."]
        ),
        (
            "db.default.svc.cluster.local", "A", "NOERROR",
            ["db.default.svc.cluster.local. a 10.42.0.50", "db.default.svc.cluster.local. a 10.42.0.51"]
        ),
        ("db.default.svc.cluster.local", "AAAA", "NOERROR", [soa]),
        ("db-0.db.default.svc.cluster.local", "A", "NOERROR", ["db-0.db.default.svc.cluster.local. a 10.42.0.50"]),
        (
            "10-42-0-51.db.default.svc.cluster.local", "A", "NOERROR",
            ["10-42-0-51.db.default.svc.cluster.local. a 10.42.0.51"]
        ),
        (
            "_pg._tcp.db.default.svc.cluster.local", "SRV", "NOERROR",
            [
                "_pg._tcp.db.default.svc.cluster.local. srv 0 100 5432 10-42-0-51.db.default.svc.cluster.local.",
                "_pg._tcp.db.default.svc.cluster.local. srv 0 100 5432 db-0.db.default.svc.cluster.local.",
            ]
        ),
        (
            "ext.default.svc.cluster.local", "A", "NOERROR",
            ["ext.default.svc.cluster.local. cname ok.test.", "ok.test. a 192.0.2.1"]
        ),
        ("dns-version.cluster.local", "TXT", "NOERROR", ["dns-version.cluster.local. txt \"1.1.0\""]),
        ("cluster.local", "NS", "NOERROR", ["cluster.local. ns ns.dns.cluster.local."]),
        ("10-1-2-3.default.pod.cluster.local", "A", "NOERROR", ["10-1-2-3.default.pod.cluster.local. a 10.1.2.3"]),
        ("11.0.96.10.in-addr.arpa", "PTR", "NOERROR", ["11.0.96.10.in-addr.arpa. ptr web.default.svc.cluster.local."]),
        (
            "50.0.42.10.in-addr.arpa", "PTR", "NOERROR",
            ["50.0.42.10.in-addr.arpa. ptr db-0.db.default.svc.cluster.local."]
        ),
        ("localhost", "A", "NOERROR", ["localhost. a 127.0.0.1"]),
        ("registry.example", "A", "NOERROR", ["registry.example. a 192.0.2.7"]),
        ("ok.test", "AAAA", "NOERROR", ["ok.test. aaaa 2001:db8::1"]),
        ("nx.test", "A", "NXDOMAIN", [". soa . ."]),
    ]

    private static let hosts: [String: JSONValue] = [
        "hosts": [["name": "registry.example", "addresses": ["192.0.2.7"]]]
    ]

    @Test func theSpecificationIsAnsweredOverBothTransportsAndFamilies() throws {
        try DNSStage.with(Self.hosts) { stage in
            for row in Self.rows {
                for (server, option) in [
                    (DNSStage.clusterDNS, "+notcp"), ("fd96::a", "+notcp"), ("169.254.20.10", "+tcp"),
                    ("fd00:6b6e:6574::53", "+tcp"),
                ] {
                    let answer = try stage.query(row.name, row.type, server: server, option)
                    #expect(
                        answer.code == row.code && answer.records == row.records,
                        "\(row.name) \(row.type) at \(server): \(answer)")
                    #expect(answer.name == "\(row.name).")
                }
            }
            // The question comes back as it was asked.
            let mixed = try stage.query("WeB.dEfAuLt.SvC.cLuStEr.LoCaL")
            #expect(
                mixed.name == "WeB.dEfAuLt.SvC.cLuStEr.LoCaL." && mixed.records == Self.rows[0].records
                    && mixed.flags.contains("aa"))
        }
    }

    @Test func anotherResolverLibraryReadsTheSame() throws {
        try DNSStage.with(Self.hosts) { stage in
            let rows = Self.rows.map { "(\"\($0.name)\", \"\($0.type)\")" }.joined(separator: ", ")
            let script = """
                import dns.message, dns.query, dns.rcode, dns.rdatatype
                for name, kind in [\(rows)]:
                    answer = dns.query.udp(dns.message.make_query(name, kind, use_edns=0, payload=1232), "\(DNSStage.clusterDNS)", timeout=6)
                    for section in (answer.answer, answer.authority):
                        for records in section:
                            for record in records:
                                text = record.to_text() if records.rdtype != dns.rdatatype.SOA else f"{record.mname} {record.rname}"
                                print(name, kind, dns.rcode.to_text(answer.rcode()), f"{records.name} {dns.rdatatype.to_text(records.rdtype)} {text}".lower(), sep="|")
                """
            let path = "\(stage.playground.directory)/resolve.py"
            try Data(script.utf8).write(to: URL(fileURLWithPath: path))
            var found: [String: (code: String, records: [String])] = [:]
            for line in try shell("/usr/bin/python3 \(path)", in: stage.playground.namespace("p")).split(
                separator: "\n")
            {
                let parts = line.split(separator: "|").map(String.init)
                found["\(parts[0]) \(parts[1])", default: (parts[2], [])].records.append(parts[3])
            }
            for row in Self.rows {
                let answer = found["\(row.name) \(row.type)"]
                #expect(
                    answer?.code == row.code && answer?.records.sorted() == row.records,
                    "\(row.name) \(row.type): \(String(describing: answer))")
            }
        }
    }

    @Test func queriesAreNotTracked() throws {
        try DNSStage.with { stage in
            for server in [DNSStage.clusterDNS, "169.254.20.10"] {
                for option in ["+notcp", "+tcp"] {
                    _ = try stage.query("web.default.svc.cluster.local", server: server, option)
                }
            }
            let tracked = try shell("cat /proc/net/nf_conntrack", in: stage.playground.namespace("node1"))
            #expect(!tracked.contains("dport=53 "), "\(tracked)")
        }
    }

    @Test func externalFaultsEndInTheRightAnswer() throws {
        try DNSStage.with { stage in
            let good = ["a 192.0.2.1"]
            let rows: [(name: String, code: String, data: [String], milliseconds: Int)] = [
                ("ok.test", "NOERROR", good, 500),
                ("alias.test", "NOERROR", ["a 192.0.2.1", "cname middle.test.", "cname ok.test."], 500),
                ("other.test", "NOERROR", good, 500), ("cut.test", "NOERROR", good, 500),
                ("cutslow.test", "NOERROR", good, 2_500),
                ("cutsilent.test", "SERVFAIL", [], 4_900), ("wrongid.test", "NOERROR", good, 500),
                ("wrongname.test", "NOERROR", good, 500), ("spoofed.test", "NOERROR", good, 500),
                ("garbage.test", "NOERROR", good, 500), ("nx.test", "NXDOMAIN", ["soa . ."], 500),
                ("nxbare.test", "NXDOMAIN", [], 500), ("nodata.test", "NOERROR", ["soa . ."], 500),
                ("servfail.test", "SERVFAIL", [], 500), ("refused.test", "SERVFAIL", [], 500),
                ("old.test", "NOERROR", good, 500),
                ("silent.test", "SERVFAIL", [], 4_900), ("loop.test", "NOERROR", ["cname loop.test."], 500),
            ]
            for row in rows {
                let start = ContinuousClock.now
                let answer = try stage.query(row.name)
                let time = Int((ContinuousClock.now - start) / .milliseconds(1))
                let data = answer.records.map { $0.split(separator: " ").dropFirst().joined(separator: " ") }.sorted()
                #expect(answer.code == row.code && data == row.data, "\(row.name): \(answer)")
                #expect(time < row.milliseconds, "\(row.name) took \(time) ms")
            }
            // What has no start of authority is not remembered; what has is.
            stage.upstreams[0].forget()
            for _ in 0..<3 { for name in ["nx.test", "nxbare.test", "ok.test"] { _ = try stage.query(name) } }
            #expect(Set(stage.upstreams[0].queries) == ["nxbare.test 1"])
        }
    }

    @Test func anUpstreamThatIsDeadIsPassedOver() throws {
        try DNSStage.with { stage in
            stage.upstreams[0].isSilent.store(true, ordering: .relaxed)
            var times: [Int] = []
            for index in 0..<12 {
                let start = ContinuousClock.now
                let answer = try stage.query("ok.n\(index).test")
                #expect(answer.code == "NOERROR")
                times.append(Int((ContinuousClock.now - start) / .milliseconds(1)))
            }
            // It is asked first until it has failed twice, and once in a while after.
            #expect(times.max() ?? 0 < 1_500 && times.filter { $0 > 150 }.count <= 4, "\(times)")
            try eventually(within: 3) {
                try metric(
                    "coredns_forward_healthcheck_broken_total{to=\"127.0.0.1:5300\"}", of: "node1", stage.playground)
                    > 0
            }
        }
    }

    @Test func staleAnswersAreToldWhileNobodyAnswers() throws {
        try DNSStage.with(["cache": ["maxTTL": 1]]) { stage in
            let first = try stage.query("short.test")
            #expect(first.records == ["short.test. a 192.0.2.1"])
            for upstream in stage.upstreams { upstream.isSilent.store(true, ordering: .relaxed) }
            usleep(1_500_000)
            let start = ContinuousClock.now
            let late = try stage.query("short.test")
            #expect(late.records == first.records)
            #expect(ContinuousClock.now - start < .seconds(2.5))
            // And at once, once it is known.
            usleep(3_000_000)
            let second = ContinuousClock.now
            let again = try stage.query("short.test")
            #expect(again.records == first.records)
            #expect(ContinuousClock.now - second < .milliseconds(300))
            for upstream in stage.upstreams { upstream.isSilent.store(false, ordering: .relaxed) }
        }
    }

    @Test func withoutTheDaemonOthersAnswerAtTheClusterIP() throws {
        // Another DNS server as a pod is the Service's endpoint.
        var objects = DNSStage.clusterObjects
        objects.append([
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": [
                "name": "kube-dns-1", "namespace": "kube-system", "labels": ["kubernetes.io/service-name": "kube-dns"],
            ],
            "addressType": "IPv4", "ports": [["name": "dns", "port": 53, "protocol": "UDP"]],
            "endpoints": [["addresses": ["10.42.1.1"]]],
        ])
        try DNSStage.with(objects: objects) { stage in
            let other = try UpstreamDouble(at: .v4(0), in: stage.playground.namespace("p"))
            defer { other.stop() }
            try stage.playground.addPod("q", node: "node1")
            #expect(stage.playground.addresses(of: "p").contains { "\($0)" == "10.42.1.1" })
            func ask() throws -> String {
                try shell(
                    "dig +short +tries=2 +time=1 @\(DNSStage.clusterDNS) web.default.svc.cluster.local || true",
                    in: stage.playground.namespace("q"))
            }
            let before = try ask()
            #expect(before == "10.96.0.11\n")
            try stage.playground.stopDaemon("node1", signal: SIGKILL)
            // All names of the cluster are unknown to it.
            try eventually(within: 2) { try ask() == "" && other.queries.contains("web.default.svc.cluster.local 1") }
            try stage.playground.startDaemon("node1")
            try stage.playground.waitUntilReady("node1")
            try eventually(within: 2) { try ask() == "10.96.0.11\n" }
        }
    }

    @Test(arguments: [SIGHUP, SIGUSR1]) func aRestartUnderLoadLosesNoQuery(signal: Int32) throws {
        let manager = ["/usr/bin/python3", "\(Checkout.path)/Tests/service-manager.py"]
        try DNSStage.with(wrapper: manager) { stage in
            let load = try DNSLoad(
                "web.default.svc.cluster.local", at: .v4(0x0A60_000A), rate: 5_000, expected: .v4(0x0A60_000B),
                in: stage.playground.namespace("p"))
            for _ in 0..<3 {
                usleep(700_000)
                kill(stage.playground.process(of: "node1"), signal)
            }
            usleep(1_500_000)
            let counts = load.end()
            print(
                "\(signal == SIGHUP ? "restarted" : "killed") three times: \(counts), \(counts.unanswered) unanswered")
            #expect(counts.asked > 10_000 && counts.unanswered < 10 && counts.wrong == 0, "\(counts)")
        }
    }

    @Test func aReloadUnderLoadLosesNoQuery() throws {
        try DNSStage.with { stage in
            let load = try DNSLoad(
                "web.default.svc.cluster.local", at: .v4(0x0A60_000A), rate: 5_000, expected: .v4(0x0A60_000B),
                in: stage.playground.namespace("p"))
            for _ in 0..<3 {
                usleep(500_000)
                kill(stage.playground.process(of: "node1"), SIGHUP)
            }
            usleep(1_000_000)
            let counts = load.end()
            #expect(counts.asked > 8_000 && counts.unanswered < 10 && counts.wrong == 0, "\(counts)")
        }
    }

    @Test func changesAreAnsweredAtOnceAndHandMadeOnesRepaired() throws {
        try DNSStage.with { stage in
            try stage.put(DNSStage.clusterObjects + [DNSStage.service("new", "default", ["10.96.0.77"], ports: [])])
            try eventually {
                try stage.query("new.default.svc.cluster.local").records == [
                    "new.default.svc.cluster.local. a 10.96.0.77"
                ]
            }
            try stage.put(DNSStage.clusterObjects)
            try eventually { try stage.query("new.default.svc.cluster.local", "SRV").code == "NXDOMAIN" }
            let node = try stage.playground.namespace("node1")
            for command in [
                "ip address del 10.96.0.10/32 dev kdns", "ip link del kdns", "nft delete table inet knetd_dns",
            ] {
                _ = try shell(command, in: node)
                try eventually(within: 2) {
                    try shell("ip address show dev kdns 2>/dev/null || true", in: node).contains("10.96.0.10")
                        && shell("nft list tables", in: node).contains("knetd_dns")
                }
                let answer = try stage.query("web.default.svc.cluster.local")
                #expect(answer.code == "NOERROR")
            }
        }
    }

    @Test func namesAreAnsweredWithoutTheAPIServerAndTheUplinkAlsoAtBoot() throws {
        var server: PlaygroundServer?
        defer { server?.stop() }
        try DNSStage.with(
            ["cache": ["maxTTL": 1]],
            cluster: { playground in
                let started = try PlaygroundServer(playground)
                try started.take(playground)
                try started.double.putMany(DNSStage.clusterObjects)
                server = started
                return [
                    "kubernetes": [
                        "kubeconfig": .string(try started.writeKubeconfig(playground)), "snapshotSeconds": 1,
                    ]
                ]
            }
        ) { stage in
            let server = try #require(server)
            func expectCluster() throws {
                for row in Self.rows where row.name.hasSuffix("cluster.local") && !row.name.hasPrefix("ext") {
                    let answer = try stage.query(row.name, row.type)
                    #expect(answer.code == row.code && answer.records == row.records, "\(row.name): \(answer)")
                }
            }
            func expectSoon(_ name: String, _ code: String, within milliseconds: Int) throws {
                let start = ContinuousClock.now
                let answer = try stage.query(name)
                let time = Int((ContinuousClock.now - start) / .milliseconds(1))
                #expect(answer.code == code && time < milliseconds, "\(name): \(answer) after \(time) ms")
            }
            try expectCluster()
            try expectSoon("ok.test", "NOERROR", within: 500)
            usleep(1_500_000)
            server.stop()
            try expectCluster()
            try expectSoon("ok.two.test", "NOERROR", within: 500)
            for upstream in stage.upstreams { upstream.isSilent.store(true, ordering: .relaxed) }
            try expectCluster()
            try expectSoon("ok.test", "NOERROR", within: 2_500)
            try expectSoon("ok.three.test", "SERVFAIL", within: 4_900)

            try stage.playground.stopDaemon("node1")
            try forgetBoot(of: "node1", stage.playground)
            let boot = "\(stage.playground.directory)/boot_id"
            try Data("another boot\n".utf8).write(to: URL(fileURLWithPath: boot))
            try start("node1", boot: boot, stage.playground)
            try stage.playground.addPod("q", node: "node1")
            let output = try shell(
                "dig +short +tries=1 +time=5 @\(DNSStage.clusterDNS) web.default.svc.cluster.local",
                in: stage.playground.namespace("q"))
            #expect(output == "10.96.0.11\n")
            let external = try shell(
                "dig +tries=1 +time=5 @\(DNSStage.clusterDNS) ok.test", in: stage.playground.namespace("q"))
            #expect(external.contains("SERVFAIL"))
        }
    }

    @Test func itSaysWhereAnAnswerComesFrom() throws {
        try DNSStage.with { stage in
            let path = stage.playground.configurationPath("node1")
            let text = try knetd(
                "dns", "query", "ok.test.default.svc.cluster.local", "--from", "default/p", "--config", path)
            #expect(text.status == 0, "\(text.errors)")
            for part in ["NOERROR", "CNAME ok.test.", "A 192.0.2.1", "a search of default/p", "asking upstream"] {
                #expect(text.output.contains(part), "\(text.output)")
            }
            let wrong = try knetd("dns", "query", "ok.test", "--from", "default/q", "--config", path)
            #expect(wrong.status == 1 && wrong.errors.contains("there is no pod \"default/q\" on this node"))
        }
    }
}
