import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Every field of a Service and what it does, with real packets. The table in plugins/service-proxy/README.md names these tests.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct ServiceTests {
    private typealias Stage = ServiceStage

    private static let dataplanes = ["overlay", "routed", "ebpf"]

    @Test(arguments: dataplanes) func aClusterIPLeadsToItsEndpointsFromEverywhere(dataplane: String) throws {
        let plugins: JSONValue = .object([dataplane: [:], "serviceProxy": [:]])
        try withServices(["plugins": plugins]) { stage in
            try stage.put([Stage.service("web", 1)] + stage.slices("web", [.init(pod: "a"), .init(pod: "b")]))
            try stage.waitFor(1) { $0.server != nil }
            for family in IPFamily.allCases {
                let address = try stage.ip(Stage.clusterIP(1, family))
                let (a, b) = (try stage.address("a", family), try stage.address("b", family))
                for client in ["c1", "c2", "a", "b", "node1", "node2", "outside"] {
                    let servers = try stage.servers(from: client, to: address)
                    #expect(Set(servers.keys) == [a, b], "\(client): \(servers)")
                }
                // The endpoint sees who asks, wherever the answer comes back by itself.
                for _ in 0..<10 {
                    #expect(try stage.connect(from: "c1", to: address).seen == stage.address("c1", family))
                    let outcome = try stage.connect(from: "outside", to: address)
                    let outside = try stage.address("outside", family)
                    #expect(outcome.server == a ? outcome.seen == outside : outcome.seen != outside)
                }
            }
        }
    }

    @Test func datagramsGoTheSameWay() throws {
        try withServices { stage in
            let ports: [JSONValue] = [["port": 53, "protocol": "UDP"]]
            try stage.put(
                [Stage.service("dns", 1, ports: ports)]
                    + stage.slices(
                        "dns", [.init(pod: "a"), .init(pod: "b")], ports: [["port": 7007, "protocol": "UDP"]]))
            for family in IPFamily.allCases {
                let address = try stage.ip(Stage.clusterIP(1, family))
                for client in ["c1", "c2", "a", "node1", "node2", "outside"] {
                    let prober = Prober(try stage.playground.namespace(client), port: 53, milliseconds: 400)
                    try eventually(within: 4) { (try? prober.datagram(address, bytes: 100)) != nil }
                    for _ in 0..<10 { try prober.datagram(address, bytes: 100) }
                }
                // TCP at this port is another frontend, which is not there.
                let stream = try stage.connect(from: "c1", to: address, port: 53)
                #expect(stream == .refused)
            }
        }
    }

    @Test func whatHasNoEndpointsIsRefusedAndWhatIsNoServiceLeadsNowhere() throws {
        let plugins: JSONValue = [
            "overlay": [:], "serviceProxy": ["serviceCIDRs": [.string(Stage.clusterRange), "fd96::/64"]],
        ]
        try withServices(["plugins": plugins]) { stage in
            try stage.put(
                [Stage.service("web", 1), Stage.service("empty", 2)] + stage.slices("web", [.init(pod: "a")]))
            try stage.waitFor(1) { $0.server != nil }
            try stage.waitFor(2) { $0 == .refused }
            for family in IPFamily.allCases {
                for client in ["c1", "node1", "outside"] {
                    #expect(try stage.connect(from: client, to: 2, family) == .refused, "\(client)")
                    // A port that the Service does not have.
                    let unused = try stage.connect(from: client, to: 1, family, port: 81)
                    #expect(unused == .refused, "\(client)")
                    // An address that no Service has.
                    #expect(try stage.connect(from: client, to: 9, family) == .silent, "\(client)")
                }
            }
        }
    }

    @Test func aNodePortIsOnEveryNode() throws {
        try withServices { stage in
            let ports: [JSONValue] = [["port": 80, "targetPort": 7007, "nodePort": 30080]]
            try stage.put(
                [Stage.service("web", 1, ports: ports, ["type": "NodePort"])]
                    + stage.slices("web", [.init(pod: "a"), .init(pod: "b")]))
            try stage.waitFor(1) { $0.server != nil }
            for family in IPFamily.allCases {
                let (a, b) = (try stage.address("a", family), try stage.address("b", family))
                for node in ["node1", "node2"] {
                    let address = try stage.address(node, family)
                    for client in ["c1", "c2", "a", "b", "node1", "node2", "outside"] {
                        let servers = try stage.servers(from: client, to: address, port: 30080)
                        #expect(Set(servers.keys) == [a, b], "\(client) to \(node): \(servers)")
                    }
                    #expect(try stage.connect(from: "outside", to: address, port: 30081) == .refused)
                }
            }
        }
    }

    @Test func localPoliciesKeepConnectionsOnTheNode() throws {
        try withServices { stage in
            let ports: [JSONValue] = [["port": 80, "targetPort": 7007, "nodePort": 30080]]
            let local: [String: JSONValue] = ["type": "NodePort", "externalTrafficPolicy": "Local"]
            let away: [JSONValue] = [["port": 80, "targetPort": 7007, "nodePort": 30081]]
            try stage.put(
                [
                    Stage.service("both", 1, ports: ports, local), Stage.service("away", 2, ports: away, local),
                    Stage.service("inside", 3, ["internalTrafficPolicy": "Local"]),
                    Stage.service("nowhere", 4, ["internalTrafficPolicy": "Local"]),
                ] + stage.slices("both", [.init(pod: "a"), .init(pod: "b")])
                    + stage.slices("away", [.init(pod: "b")])
                    + stage.slices("inside", [.init(pod: "a"), .init(pod: "b")])
                    + stage.slices("nowhere", [.init(pod: "b")]))
            try stage.waitFor(3) { $0.server != nil }
            for family in IPFamily.allCases {
                let (a, b) = (try stage.address("a", family), try stage.address("b", family))
                let outside = try stage.address("outside", family)
                let node1 = try stage.address("node1", family)
                for _ in 0..<10 {
                    // From outside: the node's own endpoint, which sees the client.
                    #expect(
                        try stage.connect(from: "outside", to: node1, port: 30080) == .answered(by: a, seen: outside))
                    #expect(
                        try stage.connect(from: "outside", to: stage.address("node2", family), port: 30080)
                            == .answered(by: b, seen: outside))
                    #expect(try stage.connect(from: "c1", to: 3, family).server == a)
                    #expect(try stage.connect(from: "node1", to: 3, family).server == a)
                }
                #expect(try stage.connect(from: "outside", to: node1, port: 30081) == .silent)
                // The node's pods and the node itself are no clients from outside.
                #expect(try stage.connect(from: "c1", to: node1, port: 30081).server == b)
                #expect(try stage.connect(from: "node1", to: node1, port: 30081).server == b)
                #expect(Set(try stage.servers(from: "c1", to: node1, port: 30080).keys) == [a, b])
                // Of an internal policy without local endpoints nobody is let through.
                #expect(try stage.connect(from: "c1", to: 4, family) == .silent)
                #expect(try stage.connect(from: "c2", to: 4, family).server == b)
                // ClusterIPs do not follow the external policy.
                #expect(
                    Set(try stage.servers(from: "c1", to: try stage.ip(Stage.clusterIP(1, family))).keys) == [a, b])
            }
        }
    }

    /// - Parameter given: whether knetd itself gives load balancers their addresses.
    @Test(arguments: [("overlay", false), ("overlay", true), ("ebpf", true)])
    func externalAddressesAndLoadBalancersLeadToTheEndpoints(dataplane: String, given: Bool) throws {
        let pools = [2, 4].map { number -> JSONValue in
            let addresses = ["198.51.100.\(number)/32", "2001:db8:5::\(number)/128"].map(JSONValue.string)
            return ["name": .string("of\(number)"), "addresses": .array(addresses)]
        }
        var plugins: [String: JSONValue] = [dataplane: [:], "serviceProxy": [:]]
        if given { plugins["loadBalancer"] = ["pools": .array(pools)] }
        // Of nodes with manifests a single one gives addresses.
        let nodes = given ? 1 : 2
        try withServices(
            ["plugins": .object(plugins)], nodes: nodes, servers: [("a", "node1"), ("b", "node\(nodes)")]
        ) { stage in
            let external: [JSONValue] = ["198.51.100.1", "2001:db8:5::1"]
            let vips: [JSONValue] = [["ip": "198.51.100.2", "ipMode": "VIP"], ["ip": "2001:db8:5::2"]]
            let proxied: [JSONValue] = [
                ["ip": "198.51.100.3", "ipMode": "Proxy"], ["ip": "2001:db8:5::3", "ipMode": "Proxy"],
            ]
            let limited: [JSONValue] = [["ip": "198.51.100.4"], ["ip": "2001:db8:5::4"]]
            let outsideRanges: [JSONValue] = IPFamily.allCases.compactMap { family in
                stage.playground.outsideAddress(family).map { .string("\(CIDR(host: $0))") }
            }
            let ends = [ServiceStage.End(pod: "a"), .init(pod: "b")]
            func balancer(
                _ name: String, _ number: Int, _ ingress: [JSONValue], _ spec: [String: JSONValue] = [:]
            ) -> JSONValue {
                Stage.service(
                    name, number, annotations: given ? ["metallb.io/address-pool": .string("of\(number)")] : [:],
                    ingress: given ? [] : ingress,
                    ["type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack"].merging(spec) { $1 })
            }
            try stage.put(
                [
                    Stage.service("external", 1, ["externalIPs": .array(external)]), balancer("balanced", 2, vips),
                    Stage.service(
                        "proxied", 3, ingress: proxied, ["type": "LoadBalancer", "loadBalancerClass": "another"]),
                    balancer("limited", 4, limited, ["loadBalancerSourceRanges": .array(outsideRanges)]),
                ] + stage.slices("external", ends) + stage.slices("balanced", ends) + stage.slices("proxied", ends)
                    + stage.slices("limited", ends))
            try stage.waitFor(4) { $0.server != nil }
            for family in IPFamily.allCases {
                let ends = Set([try stage.address("a", family), try stage.address("b", family)])
                let address = { (n: Int) in try stage.ip(family == .v4 ? "198.51.100.\(n)" : "2001:db8:5::\(n)") }
                for number in [2, 4] {
                    try eventually(within: 5) { try stage.connect(from: "outside", to: address(number)).server != nil }
                }
                for client in ["outside", "c1", "node1", "a"] {
                    for number in [1, 2] {
                        let servers = try stage.servers(from: client, to: address(number))
                        #expect(Set(servers.keys) == ends, "\(client) to \(number): \(servers)")
                    }
                    // That address is the load balancer's own business.
                    #expect(try stage.connect(from: client, to: address(3)).server == nil)
                }
                #expect(Set(try stage.servers(from: "outside", to: address(4)).keys) == ends)
                #expect(try stage.connect(from: "c1", to: address(4)) == .silent)
                #expect(try stage.connect(from: "node1", to: address(4)) == .silent)
                // The ranges are of the load balancer's address alone.
                #expect(try stage.connect(from: "c1", to: 4, family).server != nil)
            }
        }
    }

    @Test func headlessExternalNameAndOtherProxiesServicesAreLeftAlone() throws {
        try withServices { stage in
            let label: [String: JSONValue] = ["service.kubernetes.io/service-proxy-name": "another"]
            try stage.put(
                [
                    Stage.service("web", 1), Stage.service("other", 2, labels: label),
                    Stage.service("headless", 3, ["clusterIP": "None", "clusterIPs": ["None"]]),
                    Stage.service("name", 4, ["type": "ExternalName", "externalName": "example.org"]),
                ] + ["web", "other", "headless", "name"].flatMap { try stage.slices($0, [.init(pod: "a")]) })
            try stage.waitFor(1) { $0.server != nil }
            for family in IPFamily.allCases {
                for number in [2, 3, 4] { #expect(try stage.connect(from: "c1", to: number, family).server == nil) }
            }
        }
    }

    @Test func conditionsOfEndpointsDecide() throws {
        try withServices { stage in
            let ending: [String: JSONValue] = ["ready": false, "serving": true, "terminating": true]
            let dead: [String: JSONValue] = ["ready": false, "serving": false, "terminating": true]
            try stage.put(
                (1...4).map { Stage.service("s\($0)", $0) }
                    + stage.slices("s1", [.init(pod: "a"), .init(pod: "b", conditions: ["ready": false])])
                    + stage.slices("s2", [.init(pod: "a"), .init(pod: "b", conditions: ending)])
                    + stage.slices("s3", [.init(pod: "a", conditions: dead), .init(pod: "b", conditions: ending)])
                    + stage.slices("s4", [.init(pod: "a", conditions: dead)]))
            try stage.waitFor(3) { $0.server != nil }
            try stage.waitFor(4) { $0 == .refused }
            for family in IPFamily.allCases {
                let (a, b) = (try stage.address("a", family), try stage.address("b", family))
                for (number, server) in [(1, a), (2, a), (3, b)] {
                    let address = try stage.ip(Stage.clusterIP(number, family))
                    #expect(Set(try stage.servers(from: "c1", to: address, count: 12).keys) == [server], "\(number)")
                }
            }
        }
    }

    @Test func hintsKeepConnectionsNear() throws {
        try withServices { stage in
            let node = """
                {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "node1",
                 "labels": {"topology.kubernetes.io/zone": "z1"}},
                 "spec": {"podCIDRs": ["10.42.1.0/24", "fd42:0:0:1::/64"]},
                 "status": {"addresses": [{"type": "InternalIP", "address": "\(try stage.address("node1", .v4))"},
                                          {"type": "InternalIP", "address": "\(try stage.address("node1", .v6))"}]}}
                """
            try stage.write(node, "node1.yaml")
            let (a, b) = (ServiceStage.End(pod: "a", zones: ["z1"]), ServiceStage.End(pod: "b", zones: ["z2"]))
            try stage.put(
                (1...4).map { Stage.service("s\($0)", $0, ["trafficDistribution": "PreferClose"]) }
                    + stage.slices("s1", [a, b])
                    // One endpoint without hints: none counts. No endpoint for this zone: likewise.
                    + stage.slices("s2", [a, .init(pod: "b")])
                    + stage.slices("s3", [.init(pod: "a", zones: ["z2"]), b])
                    + stage.slices(
                        "s4",
                        [
                            .init(pod: "a", zones: ["z1"], nodes: ["node2"]),
                            .init(pod: "b", zones: ["z1"], nodes: ["node1"]),
                        ]))
            try stage.waitFor(4) { $0.server != nil }
            for family in IPFamily.allCases {
                let (a, b) = (try stage.address("a", family), try stage.address("b", family))
                for (number, servers) in [(1, [a]), (2, [a, b]), (3, [a, b]), (4, [b])] {
                    let address = try stage.ip(Stage.clusterIP(number, family))
                    try eventually(within: 3) { Set(try stage.servers(from: "c1", to: address).keys) == Set(servers) }
                }
            }
        }
    }

    @Test func portsGoByName() throws {
        try withServices { stage in
            let ports: [JSONValue] = [
                ["name": "one", "port": 80, "targetPort": "web"], ["name": "two", "port": 81, "targetPort": "other"],
            ]
            try stage.put(
                [Stage.service("web", 1, ports: ports)]
                    + stage.slices(
                        "web", [.init(pod: "a")], ports: [["name": "one", "port": 7007], ["name": "two", "port": 9]])
                    + stage.slices("web", [.init(pod: "b")], ports: [["name": "two", "port": 7007]], suffix: "-more"))
            try stage.waitFor(1) { $0.server != nil }
            for family in IPFamily.allCases {
                let (a, b) = (try stage.address("a", family), try stage.address("b", family))
                #expect(try stage.connect(from: "c1", to: 1, family).server == a)
                let outcomes = try (0..<20).map { _ in try stage.connect(from: "c1", to: 1, family, port: 81) }
                #expect(outcomes.contains { $0.server == b } && outcomes.contains(.refused))
            }
        }
    }

    @Test func aClientStaysAtItsEndpoint() throws {
        try withServices { stage in
            let seconds: JSONValue = ["clientIP": ["timeoutSeconds": 2]]
            let sticky: [String: JSONValue] = ["sessionAffinity": "ClientIP"]
            let brief = sticky.merging(["sessionAffinityConfig": seconds]) { $1 }
            let ends = [ServiceStage.End(pod: "a"), .init(pod: "b")]
            let services = [Stage.service("long", 1, sticky), Stage.service("brief", 2, brief)]
            try stage.put(services + stage.slices("long", ends) + stage.slices("brief", ends))
            try stage.waitFor(1) { $0.server != nil }
            try stage.addServers(["x": "node1", "y": "node2", "z": "node1"])
            for family in IPFamily.allCases {
                let (long, brief) = (try stage.ip(Stage.clusterIP(1, family)), try stage.ip(Stage.clusterIP(2, family)))
                for client in ["c1", "node1", "outside"] {
                    #expect(try stage.servers(from: client, to: long, count: 40).count == 1, "\(client)")
                }
                // It ends at its timeout: in forty turns of a fresh choice both are met.
                var met: Set<IPAddress> = []
                for _ in 0..<8 where met.count < 2 {
                    met.formUnion(try stage.servers(from: "c1", to: brief, count: 3).keys)
                    usleep(2_300_000)
                }
                #expect(met.count == 2)
            }
            // Others that come and go change nothing; when its own endpoint goes, the client moves.
            let before = try IPFamily.allCases.map { family in
                try stage.connect(from: "c1", to: 1, family).server
            }
            let more = ends + ["x", "y", "z"].map { ServiceStage.End(pod: $0) }
            try stage.put(services + stage.slices("long", more) + stage.slices("brief", ends))
            try stage.waitFor(2) { $0.server != nil }
            usleep(300_000)
            for (family, server) in zip(IPFamily.allCases, before) {
                let long = try stage.ip(Stage.clusterIP(1, family))
                #expect(Array(try stage.servers(from: "c1", to: long, count: 40).keys) == [server])
            }
            try stage.put(services + stage.slices("long", Array(more.dropFirst(2))) + stage.slices("brief", ends))
            for (family, server) in zip(IPFamily.allCases, before) {
                let long = try stage.ip(Stage.clusterIP(1, family))
                try eventually(within: 3) {
                    try stage.connect(from: "c1", to: long).server.map { $0 != server } ?? false
                }
                #expect(try stage.servers(from: "c1", to: long, count: 20).count == 1)
            }
        }
    }

    @Test func loadBalancersLearnWhetherTheNodeHasEndpoints() throws {
        try withServices { stage in
            let spec: [String: JSONValue] = [
                "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32_000,
            ]
            try stage.put([Stage.service("web", 1, spec)] + stage.slices("web", [.init(pod: "a")]))
            try stage.waitFor(1) { $0.server != nil }
            func status(_ node: String, port: UInt16, _ path: String = "/") throws -> String {
                let address = try stage.address(node, .v4)
                let page = try stage.playground.namespace("outside").run {
                    (try? HTTP.get("\(address)", port: port, path)) ?? ""
                }
                return String(page.prefix { $0 != "\r\n" })
            }
            try eventually(within: 3) { try status("node1", port: 32_000) == "HTTP/1.1 200 OK" }
            try eventually(within: 3) { try status("node2", port: 32_000) == "HTTP/1.1 503 Service Unavailable" }
            for path in ["/healthz", "/livez"] {
                #expect(try status("node1", port: 10_256, path) == "HTTP/1.1 200 OK")
            }
            // The endpoint moves to the other node.
            try stage.put([Stage.service("web", 1, spec)] + stage.slices("web", [.init(pod: "b")]))
            try eventually(within: 3) { try status("node1", port: 32_000) == "HTTP/1.1 503 Service Unavailable" }
            try eventually(within: 3) { try status("node2", port: 32_000) == "HTTP/1.1 200 OK" }
        }
    }

    @Test func theCommandShowsWhatTheKernelHolds() throws {
        try withServices { stage in
            try stage.put(
                [Stage.service("web", 1, ["sessionAffinity": "Sometimes"]), Stage.service("empty", 2)]
                    + stage.slices("web", [.init(pod: "a"), .init(pod: "b", conditions: ["ready": false])]))
            try stage.waitFor(1) { $0.server != nil }
            let config = stage.playground.configurationPath("node1")
            let text = try knetd("services", "--config", config).output
            let a = try stage.address("a", .v4)
            let b = try stage.address("b", .v4)
            #expect(text.contains("default/web  ClusterIP"))
            #expect(text.contains("TCP 10.96.0.1:80  → \(a):7007\n"))
            #expect(text.contains("\(b):7007  is not used: it is not ready"))
            #expect(text.contains("! spec.sessionAffinity: \"Sometimes\" is neither ClientIP nor None"))
            #expect(text.contains("TCP 10.96.0.2:80  → nobody"))
            let one = try knetd("services", "default/empty", "--json", "--config", config).output
            #expect(one.contains("\"empty\"") && !one.contains("\"web\""))
            let unknown = try knetd("services", "wep", "--config", config)
            #expect(unknown.status == 1 && unknown.errors.contains("did you mean web?"))
        }
    }

    @Test func nodePortsAreServedAtTheAddressesThatTheSettingsName() throws {
        let plugins: JSONValue = [
            "overlay": [:], "serviceProxy": ["nodePortAddresses": ["203.0.113.0/24", "192.0.2.0/24", "127.0.0.0/8"]],
        ]
        try withServices(["plugins": plugins], nodes: 1, servers: [("a", "node1")]) { stage in
            let ports: [JSONValue] = [["port": 80, "targetPort": 7007, "nodePort": 30080]]
            let node = try stage.playground.namespace("node1")
            _ = try shell("ip address add 192.0.2.77/32 dev lo", in: node)
            try stage.put(
                [Stage.service("web", 1, ports: ports, ["type": "NodePort"])] + stage.slices("web", [.init(pod: "a")]))
            try stage.waitFor(1) { $0.server != nil }
            let named = try stage.ip("192.0.2.77")
            try eventually(within: 4) { try stage.connect(from: "c1", to: named, port: 30080).server != nil }
            #expect(try stage.connect(from: "node1", to: named, port: 30080).server == stage.address("a", .v4))
            for family in IPFamily.allCases {
                let other = try stage.address("node1", family)
                for client in ["c1", "node1", "outside"] {
                    #expect(try stage.connect(from: client, to: other, port: 30080) == .refused, "\(client)")
                }
            }
            // An address that goes takes its node ports with it.
            _ = try shell("ip address del 192.0.2.77/32 dev lo", in: node)
            try eventually(within: 4) {
                try !shell("nft list set inet knetd_services services_tcp4", in: node).contains("192.0.2.77")
            }
        }
    }

    @Test(arguments: IPFamily.allCases) func aServiceOfOneFamilyIsServedInThatAlone(family: IPFamily) throws {
        try withServices(nodes: 1, servers: [("a", "node1")]) { stage in
            let ports: [JSONValue] = [["port": 80, "targetPort": 7007, "nodePort": 30080]]
            let address = JSONValue.string(Stage.clusterIP(1, family))
            try stage.put(
                [
                    Stage.service(
                        "web", 1, ports: ports, ["type": "NodePort", "clusterIP": address, "clusterIPs": [address]])
                ] + stage.slices("web", [.init(pod: "a")]))
            try eventually(within: 4) { try stage.connect(from: "c1", to: 1, family).server != nil }
            let node = try stage.address("node1", family)
            #expect(try stage.connect(from: "outside", to: node, port: 30080).server == stage.address("a", family))
            for other in IPFamily.allCases where other != family {
                #expect(try stage.connect(from: "c1", to: 1, other) == .silent)
                let node = try stage.address("node1", other)
                #expect(try stage.connect(from: "outside", to: node, port: 30080) == .refused)
            }
        }
    }
}
