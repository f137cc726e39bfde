import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// `knetd observe`: a script of connections, and the list of them by the names of pods and Services.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct ObserveTests {
    private typealias Stage = ServiceStage

    /// One connection of the script, so often.
    private struct Step {
        let count: Int
        let from: String
        /// Where it goes to: a pod, "outside", a Service's number, or a node's port.
        let target: Target
        /// As it is to be told.
        let told: String

        enum Target {
            case host(String)
            case datagram(String)
            case service(Int)
            case nodePort
        }
    }

    /// - Parameter atSocket: whether Services are found before a packet is sent.
    private static func script(atSocket: Bool) -> [Step] {
        let web = atSocket ? "" : " for default/web"
        return [
            Step(count: 3, from: "c1", target: .host("a"), told: "began default/c1 → default/a"),
            Step(count: 3, from: "c1", target: .host("b"), told: "began default/c1 → default/b"),
            Step(count: 3, from: "c2", target: .host("a"), told: "began default/c2 → default/a"),
            Step(count: 2, from: "c1", target: .datagram("a"), told: "began default/c1 → default/a"),
            Step(count: 2, from: "c1", target: .service(1), told: "began default/c1 → default/a\(web)"),
            Step(
                count: 2, from: "c1", target: .service(2),
                told: "refused default/c1 → ? for default/none: no endpoints"),
            Step(
                count: 2, from: "c1", target: .host("d"),
                told: "denied default/c1 → default/d: admitted by none of: default/closed"),
            // To itself, by the rules: a connection that the socket itself leads back leaves no pod.
            Step(count: 2, from: "a", target: .service(3), told: "began default/a → default/a for default/sticky"),
            Step(count: 3, from: "c1", target: .host("outside"), told: "began default/c1 → ?"),
            Step(count: 3, from: "outside", target: .nodePort, told: "began ? → default/a for default/web"),
        ]
    }

    private static func pods(_ names: [String], _ playground: Playground) -> [JSONValue] {
        names.map { pod in
            let ips = playground.addresses(of: pod).map { JSONValue.object(["ip": .string("\($0)")]) }
            return [
                "kind": "Pod", "apiVersion": "v1",
                "metadata": ["name": .string(pod), "labels": ["app": .string(pod)]],
                "spec": ["nodeName": .string(playground.node(of: pod) ?? "")], "status": ["podIPs": .array(ips)],
            ]
        }
    }

    private static func events(_ node: String, after number: Int, _ filters: [String], _ playground: Playground) throws
        -> [JSONValue]
    {
        let path = playground.configurationPath(node)
        let outcome = try ChildProcess.run(
            Checkout.executable, ["observe", "--json", "--config", path] + filters)
        try #require(outcome.status == 0, "\(outcome)")
        return try outcome.output.split(separator: "\n").map { try JSONValue(parsing: Data($0.utf8)) }.filter {
            ($0["number"]?.integer ?? 0) > number
        }
    }

    /// Once no more of them come.
    private static func settled(after number: Int, _ playground: Playground) throws -> [JSONValue] {
        var count = -1
        for _ in 0..<20 {
            let events = try events("node1", after: number, [], playground)
            if events.count == count { return events }
            count = events.count
            usleep(500_000)
        }
        throw Playground.Failure("events come without end")
    }

    private static func line(_ event: JSONValue) -> String {
        let service = event["service"]?.string.map { " for \($0)" } ?? ""
        let reason = event["reason"]?.string.map { ": \($0)" } ?? ""
        return "\(event["event"]?.string ?? "") \(event["sourcePod"]?.string ?? "?") → "
            + "\(event["destinationPod"]?.string ?? "?")\(service)\(reason)"
    }

    /// What is told differs by the dataplane; one in overlay's place is that one.
    private static let dataplanes = testedDataplane == "overlay" ? ["overlay", "ebpf"] : ["ebpf"]

    @Test(arguments: dataplanes) func fiftyConnectionsAreToldByTheirNames(dataplane: String) throws {
        let plugins: JSONValue = [
            "plugins": .object([
                dataplane: [:], "serviceProxy": [:], "networkPolicy": [:], "flows": ["sampleSeconds": 0],
            ])
        ]
        let servers = [("a", "node1"), ("b", "node2"), ("d", "node1")]
        try withServices(plugins, servers: servers) { stage in
            let playground = stage.playground
            let outside = try EchoServer(in: playground.namespace("outside"))
            defer { outside.stop() }
            let pods = Self.pods(["a", "b", "c1", "c2", "d"], playground)
            let policy: JSONValue = [
                "kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "metadata": ["name": "closed"],
                "spec": ["podSelector": ["matchLabels": ["app": "d"]], "policyTypes": ["Ingress"]],
            ]
            let web = Stage.service(
                "web", 1, ports: [["port": 80, "targetPort": 7007, "nodePort": 30_080]], ["type": "NodePort"])
            let sticky = Stage.service("sticky", 3, ["sessionAffinity": "ClientIP"])
            try stage.put(
                pods + [policy, web, Stage.service("none", 2), sticky] + stage.slices("web", [.init(pod: "a")])
                    + stage.slices("sticky", [.init(pod: "a")]))
            try stage.waitFor(1) { $0.server != nil }
            try stage.waitFor(2) { $0 == .refused }
            try stage.waitFor(3) { $0.server != nil }
            try eventually(within: 4) {
                try stage.connect(from: "c1", to: stage.address("d", .v4), port: 7007) == .silent
            }
            let last = try Self.events("node1", after: 0, [], playground).last?["number"]?.integer ?? 0

            var expected: [String] = []
            for family in IPFamily.allCases {
                for step in Self.script(atSocket: dataplane == "ebpf") {
                    for _ in 0..<step.count {
                        try Self.run(step, family, stage)
                        expected.append(step.told)
                    }
                }
            }
            #expect(expected.count == 50)
            let told = try Self.settled(after: last, playground).filter { $0["event"] != "ended" }
            #expect(told.map(Self.line).sorted() == expected.sorted(), "\(told.map { $0.text() })")

            // What conntrack forgets has ended; each connection ends once, with the names of its beginning.
            try playground.namespace("node1").run {
                let pods = ["a", "b", "c1", "c2"].flatMap { playground.addresses(of: $0) }
                try Conntrack().forget(of: Set(pods))
            }
            let all = try Self.settled(after: last, playground)
            func of(_ kind: String) -> [String] {
                all.filter { $0["event"]?.string == kind && $0["protocol"] == "tcp" }.map { event in
                    Self.line(event).dropFirst(kind.count)
                        + " \(event["source"]?.string ?? "") \(event["sourcePort"]?.integer ?? 0)"
                }.sorted()
            }
            // Connections that began before end meanwhile too.
            let begun = of("began")
            let ended = of("ended").filter(Set(begun).contains)
            #expect(ended == begun, "not ended: \(Set(begun).subtracting(ended)), of \(all.map { $0.text() })")

            // One end is told by who carried it, with what was sent.
            if dataplane == "ebpf" {
                try eventually(within: 4) {
                    try Self.events("node1", after: last, ["--pod", "b"], playground).contains {
                        $0["event"] == "ended" && $0["pastStack"] == true && $0["sent"]?["bytes"]?.integer ?? 0 > 100
                    }
                }
            }
            let drops = try Self.events("node1", after: last, ["--drop"], playground)
            #expect(Set(drops.compactMap { $0["event"]?.string }) == ["denied", "refused"] && drops.count == 8)
            let text = try knetd("observe", "--pod", "d", "--config", playground.configurationPath("node1")).output
            #expect(text.contains("default/c1 (") && text.contains("denied: admitted by none of: default/closed"))
            #expect(try metric("knetd_flow_events_total{event=\"denied\"}", of: "node1", playground) >= 4)
        }
    }

    private static func run(_ step: Step, _ family: IPFamily, _ stage: Stage) throws {
        switch step.target {
        case .host(let name):
            let port: UInt16 = 7007
            let outcome = try stage.connect(from: step.from, to: stage.address(name, family), port: port)
            #expect((outcome.server != nil) == (name != "d"), "\(step.from) to \(name): \(outcome)")
        case .datagram(let name):
            _ = try Prober(stage.playground.namespace(step.from)).datagram(stage.address(name, family), bytes: 10)
        case .service(let number):
            let outcome = try stage.connect(from: step.from, to: number, family)
            #expect((outcome.server != nil) == (number != 2), "\(step.from) to Service \(number): \(outcome)")
        case .nodePort:
            let outcome = try stage.connect(from: step.from, to: stage.address("node1", family), port: 30_080)
            #expect(outcome.server != nil, "\(outcome)")
        }
    }

    /// The largest of those that go on are told again and again, with what they carried so far.
    @Test func whatGoesOnIsToldToo() throws {
        let plugins: JSONValue = [
            "plugins": ["ebpf": [:], "serviceProxy": [:], "flows": ["sampleSeconds": 1]]
        ]
        try withServices(plugins, servers: [("a", "node1")]) { stage in
            let playground = stage.playground
            let web = Stage.service(
                "web", 1, ports: [["port": 80, "targetPort": 7008, "nodePort": 30_080]], ["type": "NodePort"])
            try stage.put(
                Self.pods(["a", "c1"], playground) + [web]
                    + stage.slices("web", [.init(pod: "a")], ports: [["port": 7008]]))
            func running(_ source: String?) throws -> [JSONValue] {
                try Self.events("node1", after: 0, ["--pod", "a"], playground).filter {
                    $0["event"] == "running" && $0["sourcePod"]?.string == source && $0["protocol"] == "tcp"
                }
            }
            func expect(
                _ source: String?, for service: String?, to address: IPAddress, port: UInt16, from client: String
            ) throws {
                var stream: StreamClient?
                // Until the programs know the Service, its connections are the stack's.
                try eventually(within: 10) {
                    stream = try? StreamClient(to: address, port: port, in: playground.namespace(client))
                    usleep(1_500_000)
                    return try !running(source).isEmpty
                }
                let before = try #require(try running(source).last)
                #expect(before["service"]?.string == service && before["pastStack"] == true, "\(before.text())")
                try stream?.exchange(bytes: 1_000)
                try eventually(within: 5) {
                    let (sent, answered) = (
                        before["sent"]?["bytes"]?.integer ?? 0, before["answered"]?["bytes"]?.integer ?? 0
                    )
                    let last = try running(source).last
                    return last?["sent"]?["bytes"]?.integer ?? 0 >= sent + 1_000
                        && last?["answered"]?["bytes"]?.integer ?? 0 >= answered + 1_000
                }
            }
            try expect("default/c1", for: nil, to: stage.address("a", .v4), port: EchoServer.longPort, from: "c1")
            try expect(nil, for: "default/web", to: stage.address("node1", .v6), port: 30_080, from: "outside")
        }
    }

    @Test func withoutThePluginThatIsSaid() throws {
        try withPlayground(nodes: 1) { playground in
            let outcome = try knetd("observe", "--config", playground.configurationPath("node1"))
            #expect(outcome.status != 0 && outcome.errors.contains("flows"), "\(outcome)")
        }
    }
}
