import CMnl
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// What is not between two pods alone: nodes, Services, replies, and addresses that are not one's own.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct PolicyEdgeTests {
    private func apply(_ policies: String, _ stage: PolicyStage, others: [JSONValue] = []) throws {
        var world = try PolicyCase("edge", policies).world(stage.world)
        world.others = others
        try stage.apply(world)
    }

    private func address(_ name: String, _ family: IPFamily, _ stage: PolicyStage) throws -> IPAddress {
        let known = stage.world.address(of: name, family) ?? stage.playground.address(of: name, family)
        return try #require(known)
    }

    /// Waits until a connection and a datagram come through, or neither does.
    private func expect(
        _ isAllowed: Bool, from source: String, to address: IPAddress, _ stage: PolicyStage,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let namespace = try stage.playground.namespace(source)
        try eventually(within: 3, sourceLocation: sourceLocation) {
            let isConnected = try PolicyProbe.connects(from: namespace, to: address, milliseconds: 200)
            let isAnswered = try PolicyProbe.isAnswered(from: namespace, to: address, milliseconds: 200)
            return isConnected == isAllowed && isAnswered == isAllowed
        }
    }

    // MARK: Nodes

    @Test func theNodeReachesItsIsolatedPodsAlways() throws {
        try PolicyStage.with { stage in
            try apply("x/p: {podSelector: {}, policyTypes: [Ingress, Egress]}", stage)
            for family in IPFamily.allCases {
                try expect(false, from: "z/a", to: address("x/a", family, stage), stage)
                try expect(true, from: "node1", to: address("x/a", family, stage), stage)
                try expect(true, from: "node2", to: address("x/b", family, stage), stage)
            }
        }
    }

    @Test func aPodReachesItsOwnNodeWhereItsPolicySaysSo() throws {
        try PolicyStage.with { stage in
            let servers = try PolicyServers(in: [stage.playground.namespace("node1")])
            defer { servers.stop() }
            let (four, six) = (try address("node1", .v4, stage), try address("node1", .v6, stage))
            for node in [four, six] { try expect(true, from: "x/a", to: node, stage) }
            try apply("x/p: {podSelector: $a, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}]}]}", stage)
            for node in [four, six] { try expect(false, from: "x/a", to: node, stage) }
            // Others may.
            for node in [four, six] { try expect(true, from: "x/c", to: node, stage) }
            try apply(
                """
                x/p: {podSelector: $a, policyTypes: [Egress], egress: [{to: [
                  {ipBlock: {cidr: \(four)/32}}, {ipBlock: {cidr: '\(six)/128'}}]}]}
                """, stage)
            for node in [four, six] { try expect(true, from: "x/a", to: node, stage) }
        }
    }

    @Test func aPodInTheHostsNetworkIsMeantByNoSelector() throws {
        try PolicyStage.with { stage in
            let addresses = try IPFamily.allCases.map { try address("node2", $0, stage) }
            let host: JSONValue = [
                "apiVersion": "v1", "kind": "Pod",
                "metadata": ["name": "host", "namespace": "y", "labels": ["role": "host"]],
                "spec": ["nodeName": "node2", "hostNetwork": true],
                "status": ["phase": "Running", "podIPs": .array(addresses.map { ["ip": .string("\($0)")] })],
            ]
            let peers = "{namespaceSelector: $y, podSelector: {matchLabels: {role: host}}}"
            try apply("x/p: {podSelector: {}, ingress: [{from: [\(peers)]}]}", stage, others: [host])
            for family in IPFamily.allCases {
                try expect(false, from: "node2", to: address("x/a", family, stage), stage)
            }
            // Whatever address the other node takes for the way: its own is in no set of ours.
            let table = try shell("nft list table inet knetd_policy", in: stage.playground.namespace("node1"))
            let words = table.split { " ,\t\n".contains($0) }.map { String($0) }
            for address in addresses { #expect(!words.contains("\(address)")) }
            try apply(
                """
                x/p: {podSelector: {}, ingress: [{from: [\(peers), {ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: '::/0'}}]}]}
                """, stage, others: [host])
            for family in IPFamily.allCases {
                try expect(true, from: "node2", to: address("x/a", family, stage), stage)
            }
        }
    }

    // MARK: Connections

    @Test func repliesPassThoughTheWayBackIsDenied() throws {
        try PolicyStage.with { stage in
            try apply(
                """
                x/p: {podSelector: $a, policyTypes: [Ingress]}
                y/p: {podSelector: {}, policyTypes: [Egress]}
                """, stage)
            for family in IPFamily.allCases {
                for other in ["y/a", "y/b"] {
                    try expect(false, from: other, to: address("x/a", family, stage), stage)
                    try expect(true, from: "x/a", to: address(other, family, stage), stage)
                }
            }
        }
    }

    @Test func behindAServiceThePodsOwnAddressesCount() throws {
        try PolicyStage.with { stage in
            let service = ServiceStage.service(
                "web", 1,
                ports: [
                    ["name": "tcp", "port": 80, "targetPort": 80],
                    ["name": "udp", "port": 80, "targetPort": 80, "protocol": "UDP"],
                ])
            let slices = try IPFamily.allCases.map { family -> JSONValue in
                let end: JSONValue = [
                    "addresses": [.string("\(try address("x/a", family, stage))")], "nodeName": "node1",
                ]
                return [
                    "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                    "metadata": [
                        "name": .string("web-\(family.rawValue)"), "labels": ["kubernetes.io/service-name": "web"],
                    ],
                    "addressType": .string(family.description), "endpoints": [end],
                    "ports": [["name": "tcp", "port": 80], ["name": "udp", "port": 80, "protocol": "UDP"]],
                ]
            }
            try apply(
                """
                x/p: {podSelector: $a, ingress: [{from: [{namespaceSelector: $y, podSelector: $b}]}]}
                y/p: {podSelector: $b, policyTypes: [Egress], egress: [{to: [{namespaceSelector: $x, podSelector: $a}]}]}
                z/p: {podSelector: $a, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.96.0.0/16}}]}]}
                """, stage, others: [service] + slices)
            for family in IPFamily.allCases {
                let address = try #require(IPAddress(ServiceStage.clusterIP(1, family)))
                try expect(true, from: "y/b", to: address, stage)
                // One that the server's policy does not admit, on either node; and one whose own policy names the Service's address.
                for other in ["z/c", "z/b", "z/a"] { try expect(false, from: other, to: address, stage) }
            }
        }
    }

    @Test(arguments: ["keep", "cut"]) func aConnectionUnderWayIsKeptOrCut(setting: String) throws {
        try PolicyStage.with(["existingConnections": .string(setting)]) { stage in
            let server = try EchoServer(in: stage.playground.namespace("x/a"))
            defer { server.stop() }
            for family in IPFamily.allCases {
                try stage.apply(stage.world)
                let target = try address("x/a", family, stage)
                // A neighbour on the same node, and one on the other.
                let pods = ["y/b", "y/a"]
                for pod in pods { try expect(true, from: pod, to: target, stage) }
                let clients = try pods.map { pod in
                    try StreamClient(to: target, in: stage.playground.namespace(pod), milliseconds: 300)
                }
                for client in clients { try client.exchange(bytes: 100) }
                try apply("x/p: {podSelector: {}, policyTypes: [Ingress]}", stage)
                for pod in pods { try expect(false, from: pod, to: target, stage) }
                for client in clients {
                    let isAlive = (try? client.exchange(bytes: 100)) != nil
                    #expect(isAlive == (setting == "keep"), "\(family)")
                }
            }
        }
    }

    // MARK: Forged addresses

    @Test func whatComesFromAnotherAddressThanThePodsOwnIsDroppedAndCounted() throws {
        try PolicyStage.with { stage in
            let playground = stage.playground
            func spoofed() throws -> Double {
                try metric("knetd_network_policy_other_drops_total{reason=\"spoofed\"}", of: "node1", playground)
            }
            let door = try PolicyDoor(of: playground.namespace("x/c"))
            defer { door.stop() }
            let pod = try playground.namespace("z/a")
            for family in IPFamily.allCases {
                let before = try spoofed()
                let (own, forged) = (try address("z/a", family, stage), try address("y/b", family, stage))
                let target = try address("x/c", family, stage)
                _ = try shell(
                    family == .v4 ? "ip addr add \(forged)/32 dev lo" : "ip -6 addr add \(forged)/128 dev lo nodad",
                    in: pod)
                for source in [forged, own] {
                    let socket = try pod.run { () throws -> SharedDescriptor in
                        let descriptor = try Sockets.open(family, SOCK_DGRAM, milliseconds: 300)
                        try source.withSocketName(port: 0) { name, length in
                            _ = try syscall("bind to \(source)") { bind(descriptor.number, name, length) }
                        }
                        return SharedDescriptor(descriptor)
                    }
                    for _ in 0..<20 { PolicyProbe.send(socket, to: target, port: 80) }
                }
                try eventually(within: 2) { door.arrived(from: [own]).values.reduce(0, +) == 20 }
                #expect(door.arrived(from: [forged]).isEmpty, "\(family)")
                let count = try spoofed() - before
                #expect(count >= 20, "\(count) packets of \(family) were counted")
            }
        }
    }
}
