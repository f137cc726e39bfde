import APIDouble
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Addresses for Services of type LoadBalancer, given by real daemons.
@Suite(.enabled(if: Root.isAvailable)) struct LoadBalancerTests {
    private static func service(
        _ name: String, annotations: [String: JSONValue] = [:], port: Int = 80, _ spec: [String: JSONValue] = [:]
    ) -> JSONValue {
        let fields: [String: JSONValue] = [
            "type": "LoadBalancer", "clusterIP": "10.96.7.1", "clusterIPs": ["10.96.7.1"],
            "ports": [["port": .integer(port), "protocol": "TCP"]],
        ]
        return [
            "apiVersion": "v1", "kind": "Service",
            "metadata": ["name": .string(name), "namespace": "default", "annotations": .object(annotations)],
            "spec": .object(fields.merging(spec) { $1 }),
        ]
    }

    private static func pools(_ spans: [String: String]) -> JSONValue {
        [
            "overlay": [:],
            "loadBalancer": [
                "pools": .array(
                    spans.sorted { $0.key < $1.key }.map {
                        ["name": .string($0.key), "addresses": [.string($0.value)]]
                    })
            ],
        ]
    }

    private func withServer<Result>(
        _ plugins: JSONValue, nodes: Int, _ body: (Playground, PlaygroundServer) throws -> Result
    ) throws -> Result {
        var server: PlaygroundServer?
        defer { server?.stop() }
        return try withPlayground(
            nodes: nodes, ["plugins": plugins, "agent": ["resyncSeconds": 3600]],
            cluster: { playground in
                let started = try PlaygroundServer(playground)
                try started.take(playground)
                server = started
                let path = try started.writeKubeconfig(playground)
                return ["kubernetes": ["kubeconfig": .string(path), "leaseSeconds": 2]]
            }
        ) { playground in try body(playground, try #require(server)) }
    }

    private static func addresses(_ service: JSONValue) -> [String] {
        (service["status"]?["loadBalancer"]?["ingress"]?.array ?? []).compactMap { $0["ip"]?.string }
    }

    private static func condition(_ service: JSONValue) -> JSONValue? {
        service["status"]?["conditions"]?.array?.first { $0["type"]?.string == ServiceAddresses.conditionType }
    }

    /// Two pools, services that share, more services than addresses; who writes is killed in the middle, twice.
    @Test func twoHundredServicesGetTheirAddressesThroughAChangeOfWriter() throws {
        let plugins = Self.pools(["a": "198.51.100.0-198.51.100.99", "b": "203.0.113.0-203.0.113.79"])
        try withServer(plugins, nodes: 3) { playground, server in
            let double = server.double
            for number in 0..<200 {
                // Ten of them share; one that names a pool gets that.
                let annotations: [String: JSONValue] =
                    number < 10
                    ? ["metallb.io/allow-shared-ip": "k"] : number < 30 ? ["metallb.io/address-pool": "b"] : [:]
                try double.put(Self.service("s\(1000 + number)", annotations: annotations, port: 80 + number))
            }
            func given() -> [JSONValue] { double.objects(.services).filter { !Self.addresses($0).isEmpty } }
            func writer() -> String? {
                double.object(.leases, namespace: "kube-system", name: "knetd")?["spec"]?["holderIdentity"]?.string?
                    .split(separator: "_").first.map(String.init)
            }
            for least in [30, 80] {
                try eventually(within: 20) { given().count >= least }
                let node = try #require(writer())
                try playground.stopDaemon(node, signal: SIGKILL)
                try eventually(within: 10) { writer() != node }
                try playground.startDaemon(node)
            }
            // 180 addresses, of which one serves ten: 11 have none.
            try eventually(within: 30) { given().count == 189 }
            try eventually(within: 20) {
                double.objects(.services).filter { Self.condition($0)?["reason"]?.string == "PoolExhausted" }.count
                    == 11
            }
            var holders: [String: [String]] = [:]
            for service in given() {
                let name = service["metadata"]?["name"]?.string ?? ""
                for address in Self.addresses(service) { holders[address, default: []].append(name) }
                #expect(Self.condition(service)?["status"] == "True")
            }
            #expect(holders.count == 180)
            let shared = holders.filter { $0.value.count > 1 }
            #expect(shared.count == 1 && shared.first?.value.count == 10)
            // What a killed writer wrote last may not be known to the next one; nothing else is written twice.
            let writes = double.requests.filter { $0.verb == "patch" && $0.resource == "services" && $0.code == 200 }
            #expect(writes.allSatisfy { $0.subresource == "status" })
            let names = writes.map(\.name)
            #expect(names.count == Set(names).count, "\(names.count) writes of \(Set(names).count) statuses")

            // The role of deploy/ allows what was asked.
            let allowed = try DeployFiles.permissions("edge")
            for request in double.requests where !request.verb.isEmpty {
                let resource = request.resource + (request.subresource.isEmpty ? "" : "/\(request.subresource)")
                let asked = DeployFiles.Permission(verb: request.verb, group: request.apiGroup, resource: resource)
                #expect(allowed.contains(asked), "\(asked)")
            }

            // Released addresses go to those who wait, and nobody else changes.
            let before = Dictionary(
                uniqueKeysWithValues: given().map { ($0["metadata"]?["name"]?.string ?? "", Self.addresses($0)) })
            for name in ["s1020", "s1100"] { double.delete(.services, namespace: "default", name: name) }
            try eventually(within: 10) { given().count == 189 }
            for service in given() {
                let name = service["metadata"]?["name"]?.string ?? ""
                if let old = before[name] { #expect(Self.addresses(service) == old, "\(name)") }
            }
            func failure() -> JSONValue? {
                double.objects(.events).first { $0["reason"]?.string == "AllocationFailed" }
            }
            try eventually(within: 10) { failure() != nil }
            let waiting = try #require(failure())
            #expect(waiting["type"] == "Warning" && waiting["involvedObject"]?["kind"] == "Service")
            #expect(waiting["message"] == "no free IPv4 address in \"a\", \"b\"")
        }
    }

    @Test func requestsAreTakenAndConflictsTold() throws {
        try withServer(Self.pools(["a": "198.51.100.8/29"]), nodes: 1) { playground, server in
            let double = server.double
            func service(_ name: String) -> JSONValue {
                double.object(.services, namespace: "default", name: name) ?? .null
            }
            try double.put(Self.service("one", annotations: [:], ["loadBalancerIP": "198.51.100.9"]))
            try eventually(within: 10) { Self.addresses(service("one")) == ["198.51.100.9"] }
            try double.put(Self.service("two", annotations: [:], ["loadBalancerIP": "198.51.100.9"]))
            try double.put(Self.service("class", annotations: [:], ["loadBalancerClass": "cloud"]))
            try eventually(within: 5) { Self.condition(service("two"))?["reason"] == "AddressTaken" }
            #expect(Self.condition(service("two"))?["message"]?.string?.contains("default/one's") == true)
            #expect(service("class")["status"] == nil)
            let text = try knetd(
                "loadbalancers", "--config", playground.configurationPath("node1"), in: playground.namespace("node1")
            ).output
            #expect(
                text.contains("pool a IPv4: 1 of 8 in use") && text.contains("default/one  198.51.100.9"), "\(text)")
            #expect(text.contains("default/two  none  198.51.100.9 is default/one's"), "\(text)")
            // What others wrote into a status that knetd wrote is put right.
            var changed = service("one").object ?? [:]
            changed["status"] = ["loadBalancer": [:], "conditions": changed["status"]?["conditions"] ?? []]
            try double.put(.object(changed))
            try eventually(within: 8) { Self.addresses(service("one")) == ["198.51.100.9"] }
            // Who wants no address any more has none, and the next one gets it.
            try double.put(Self.service("one", annotations: [:], ["type": "ClusterIP"]))
            try eventually(within: 5) { Self.addresses(service("two")) == ["198.51.100.9"] }
            #expect(Self.condition(service("two"))?["status"] == "True")
        }
    }

    /// A node that stops lets others answer for its addresses first: its lease may take a while to give back.
    @Test func addressesAreLeftBeforeTheLeaseIs() throws {
        let plugins: JSONValue = [
            "overlay": [:],
            "loadBalancer": [
                "pools": [["name": "lan", "addresses": ["192.168.77.200-192.168.77.215"]]], "layer2": [:],
            ],
        ]
        try withServer(plugins, nodes: 2) { playground, server in
            for number in 0..<16 {
                try server.double.put(Self.service("s\(number)", port: 80 + number))
                try server.double.put([
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": [
                        "name": .string("s\(number)"), "namespace": "default",
                        "labels": ["kubernetes.io/service-name": .string("s\(number)")],
                    ], "endpoints": [["addresses": ["10.42.1.9"], "conditions": ["ready": true]]],
                    "ports": [["port": 1]],
                ])
            }
            func addresses(of node: String, seenBy other: String) throws -> [IPAddress] {
                try (0..<16).compactMap { IPAddress("192.168.77.\(200 + $0)") }.filter {
                    try Layer2Tests.owners($0, [other], playground) == [node]
                }
            }
            var writer: String?
            try eventually(within: 10) {
                writer = server.double.object(.leases, namespace: "kube-system", name: "knetd")?["spec"]?[
                    "holderIdentity"]?
                    .string?.split(separator: "_").first.map(String.init)
                return writer != nil
            }
            let node = try #require(writer)
            let other = try #require(playground.nodeNames.first { $0 != node })
            try eventually(within: 10) { try addresses(of: other, seenBy: node).count > 0 }
            var owned: [IPAddress] = []
            try eventually(within: 5) {
                owned = try addresses(of: node, seenBy: other)
                return !owned.isEmpty
            }
            _ = try shell(
                "nft 'add table ip cut; add chain ip cut out { type filter hook output priority 0; }; "
                    + "add rule ip cut out tcp dport \(PlaygroundServer.port) drop'", in: playground.namespace(node))
            kill(playground.process(of: node), SIGTERM)
            try eventually(within: 0.5) {
                try Layer2Tests.owners(#require(owned.first), [other], playground) == [other]
            }
            #expect(try playground.isAlive(node), "it still waits for the server")
            try playground.stopDaemon(node)
        }
    }

    /// Without Kubernetes the node itself gives addresses; they outlast the daemon.
    @Test func manifestsServicesGetAddressesThatStay() throws {
        let plugins: JSONValue = .object(
            (Self.pools(["a": "198.51.100.8/29"]).object ?? [:]).merging(["serviceProxy": [:]]) { $1 })
        try withServices(["plugins": plugins], nodes: 1, servers: [("a", "node1")]) { stage in
            let playground = stage.playground
            func put(_ names: [String]) throws {
                try stage.put(
                    try names.enumerated().flatMap { number, name in
                        [
                            ServiceStage.service(
                                name, number + 1, ["type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack"])
                        ]
                            + (try stage.slices(name, [.init(pod: "a")]))
                    })
            }
            let (first, second) = try (#require(IPAddress("198.51.100.8")), #require(IPAddress("198.51.100.9")))
            try put(["one", "two"])
            try eventually(within: 5) { try stage.connect(from: "outside", to: first).server != nil }
            try eventually(within: 5) { try stage.connect(from: "outside", to: second).server != nil }
            try playground.stopDaemon("node1", signal: SIGKILL)
            try playground.startDaemon("node1")
            try playground.waitUntilReady("node1")
            try put(["two"])
            // The address that is left is not the first free one.
            try eventually(within: 5) { try stage.connect(from: "outside", to: first).server == nil }
            usleep(300_000)
            #expect(try stage.connect(from: "outside", to: second).server != nil)
            try put(["two", "three"])
            try eventually(within: 5) { try stage.connect(from: "outside", to: first).server != nil }
        }
    }

    /// By rules, and past the stack. What else load balancers have in the table of Services is tested there.
    @Test(arguments: ["overlay", "ebpf"]) func givenAddressesFollowPolicyAndEndpoints(dataplane: String) throws {
        let plugins: [String: JSONValue] = [
            dataplane: [:], "serviceProxy": [:],
            "loadBalancer": [
                "pools": [["name": "a", "addresses": ["198.51.100.16/28", "2001:db8:5::10-2001:db8:5::1f"]]]
            ],
        ]
        try withServices(["plugins": .object(plugins)], nodes: 1, servers: [("a", "node1"), ("b", "node1")]) { stage in
            let playground = stage.playground
            try stage.put(
                [
                    ServiceStage.service("local", 1, ["type": "LoadBalancer", "externalTrafficPolicy": "Local"]),
                    ServiceStage.service("none", 2, ["type": "LoadBalancer"]),
                ] + (try stage.slices("local", [.init(pod: "a"), .init(pod: "b")])))
            func given(_ name: String, _ family: IPFamily) throws -> IPAddress? {
                let text = try knetd(
                    "loadbalancers", "--json", "--config", playground.configurationPath("node1"),
                    in: playground.namespace("node1")
                ).output
                let services = try JSONValue(parsing: Data(text.utf8))["services"]?.array ?? []
                let service = services.first { $0["name"]?.string == name }
                return (service?["addresses"]?.array ?? []).lazy.compactMap { $0.string.flatMap { IPAddress($0) } }
                    .first { $0.family == family }
            }
            for family in IPFamily.allCases {
                for name in ["local", "none"] { try eventually(within: 5) { try given(name, family) != nil } }
                let (local, none) = (try #require(try given("local", family)), try #require(try given("none", family)))
                try eventually(within: 5) { try stage.connect(from: "outside", to: local).server != nil }
                #expect(try stage.connect(from: "outside", to: local).seen == stage.address("outside", family))
                #expect(try stage.connect(from: "outside", to: none) == .refused)
            }
        }
    }
}
