import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// `portMappings`, with packets from everywhere.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct HostPortTests {
    private static let port: UInt16 = 18007

    private func mapping(
        _ transport: String, port: UInt16 = port, address: String? = nil
    ) -> JSONValue {
        var members: [String: JSONValue] = [
            "hostPort": .integer(Int(port)), "containerPort": .integer(Int(EchoServer.port)),
            "protocol": .string(transport),
        ]
        members["hostIP"] = address.map(JSONValue.string)
        return .object(members)
    }

    /// Attaches a pod with an echo server in it.
    private func serve(
        _ name: String, _ mappings: [JSONValue], _ playground: Playground
    ) throws -> (server: EchoServer, addresses: [IPAddress]) {
        try NetworkNamespace.create(path: playground.namespacePath(name))
        let added = try attach(name, mappings, playground)
        #expect(added.status == 0, "\(added.json)")
        let addresses = (added.json["ips"]?.array ?? []).compactMap {
            $0["address"]?.string?.split(separator: "/").first.flatMap { IPAddress($0) }
        }
        return (try EchoServer(in: playground.namespace(name)), addresses)
    }

    private func attach(
        _ name: String, _ mappings: [JSONValue], _ playground: Playground
    ) throws -> (status: Int32, json: JSONValue) {
        var cni = CNIRun(playground: playground)
        cni.extra["runtimeConfig"] = ["portMappings": .array(mappings)]
        return try cni("ADD", pod: name)
    }

    private func ip(_ text: String) throws -> IPAddress { try #require(IPAddress(text)) }

    @Test func aHostPortLeadsToThePodFromEverywhere() throws {
        try withPlayground(nodes: 2) { playground in
            let (server, own) = try serve("a", [mapping("tcp"), mapping("udp")], playground)
            defer { server.stop() }
            try playground.addPod("b", node: "node1")
            try playground.addPod("c", node: "node2")
            for family in IPFamily.allCases {
                let node = try #require(playground.address(of: "node1", family))
                let pod = try #require(own.first { $0.family == family })
                let base = try ip(family == .v4 ? "10.42.1.0" : "fd42:0:0:1::")
                let outside = try #require(playground.outsideAddress(family))
                // Who asks, whom the pod sees: the sender, unless that is the pod itself or a loopback address.
                let b = try #require(playground.addresses(of: "b").first { $0.family == family })
                let other = try #require(playground.address(of: "node2", family))
                let local = family == .v4 ? [("node1", try ip("127.0.0.1"), base)] : []
                let callers: [(from: String, to: IPAddress, seen: IPAddress)] =
                    [
                        ("outside", node, outside), ("node2", node, other), ("c", node, other), ("b", node, b),
                        ("a", node, base), ("node1", node, node),
                    ] + local
                for caller in callers {
                    let prober = Prober(try playground.namespace(caller.from), port: Self.port)
                    let seen = try prober.stream(caller.to, bytes: 100_000)
                    #expect(seen == caller.seen, "from \(caller.from) to \(caller.to); the pod is \(pod)")
                    try prober.datagram(caller.to, bytes: 500)
                }
            }
        }
    }

    @Test func aHostAddressLimitsWhereThePortIs() throws {
        try withPlayground { playground in
            let node = try #require(playground.address(of: "node1", .v4))
            let six = try #require(playground.address(of: "node1", .v6))
            let (server, _) = try serve(
                "a",
                [
                    mapping("tcp", port: 1001, address: "127.0.0.1"), mapping("tcp", port: 1002, address: "\(node)"),
                    mapping("tcp", port: 1003, address: "0.0.0.0"), mapping("tcp", port: 1004, address: "::"),
                ], playground)
            defer { server.stop() }
            let places: [(IPAddress, UInt16, Bool)] = [
                (try ip("127.0.0.1"), 1001, true), (node, 1001, false), (node, 1002, true),
                (try ip("127.0.0.1"), 1002, false), (node, 1003, true), (try ip("127.0.0.1"), 1003, true),
                (six, 1003, false), (six, 1004, true), (node, 1004, false),
            ]
            for (address, port, isOpen) in places {
                let prober = Prober(try playground.namespace("node1"), port: port)
                #expect(((try? prober.stream(address, bytes: 100)) != nil) == isOpen, "\(address) port \(port)")
            }
        }
    }

    @Test func twoPodsCannotHaveOnePort() throws {
        try withPlayground { playground in
            let (server, _) = try serve("a", [mapping("tcp")], playground)
            defer { server.stop() }
            try NetworkNamespace.create(path: playground.namespacePath("b"))
            let refused = try attach("b", [mapping("tcp", address: "127.0.0.1")], playground)
            #expect(refused.json["code"] == 104)
            #expect(refused.json["msg"]?.string?.contains("taken by test-a/eth0") == true, "\(refused.json)")
            #expect(try attach("b", [mapping("udp")], playground).status == 0)
            #expect(try CNIRun(playground: playground)("DEL", pod: "b").status == 0)
            // The port is free with the answer to DEL.
            #expect(try CNIRun(playground: playground)("DEL", pod: "a").status == 0)
            #expect(try attach("b", [mapping("tcp")], playground).status == 0)
        }
    }

    @Test func aClientOfUDPFollowsThePortToTheNextPod() throws {
        try withPlayground { playground in
            let node = try #require(playground.address(of: "node1", .v4))
            let client = try DatagramClient(to: node, port: Self.port, in: playground.namespace("outside"))
            #expect(!client.isAnswered(milliseconds: 200), "nobody serves yet")
            let (first, _) = try serve("a", [mapping("udp")], playground)
            #expect(client.isAnswered(milliseconds: 1000), "the flow began before the pod did")
            #expect(try CNIRun(playground: playground)("DEL", pod: "a").status == 0)
            first.stop()
            let (second, _) = try serve("b", [mapping("udp")], playground)
            defer { second.stop() }
            #expect(client.isAnswered(milliseconds: 1000), "the flow went to the pod that is gone")
        }
    }

    @Test func aPodCannotReachTheNodesLoopback() throws {
        try withPlayground { playground in
            let (server, _) = try serve("a", [mapping("tcp")], playground)
            defer { server.stop() }
            let local = try EchoServer(in: playground.namespace("node1"))
            defer { local.stop() }
            let pod = try playground.namespace("a")
            // A pod with the right to do so sends what is for 127.0.0.1 to its node.
            _ = try shell(
                """
                ip rule add pref 10 to 127.0.0.1 lookup 77; ip rule add pref 100 lookup local; ip rule del pref 0
                ip route add 127.0.0.1 via 169.254.1.1 dev eth0 onlink table 77
                sysctl -qw net.ipv4.conf.all.route_localnet=1
                """, in: pod)
            let target = try ip("127.0.0.1")
            let prober = Prober(pod, milliseconds: 300)
            #expect(throws: (any Error).self) { try prober.stream(target, bytes: 10) }
            // It is the rule that keeps the pod out.
            try playground.stopDaemon("node1")
            _ = try shell("nft flush chain inet knetd_hostports input", in: playground.namespace("node1"))
            _ = try prober.stream(target, bytes: 10)
        }
    }
}
