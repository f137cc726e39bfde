import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// What becomes of connections when endpoints and Services come and go. Rows of the table in plugins/service-proxy/README.md.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct ServiceConnectionTests {
    private typealias Stage = ServiceStage

    @Test func datagramsLeaveAnEndpointThatIsGone() throws {
        try withServices { stage in
            let ports: [JSONValue] = [["port": 53, "protocol": "UDP"]]
            let service = Stage.service("dns", 1, ports: ports)
            let target: [JSONValue] = [["port": 7007, "protocol": "UDP"]]
            try stage.put([service])
            // A client that keeps its port, from before there was any endpoint.
            let clients = try IPFamily.allCases.map {
                try DatagramClient(
                    to: try stage.ip(Stage.clusterIP(1, $0)), port: 53, in: stage.playground.namespace("c1"))
            }
            for client in clients { #expect(!client.isAnswered(milliseconds: 200)) }
            try stage.put([service] + stage.slices("dns", [.init(pod: "a")], ports: target))
            for (client, family) in zip(clients, IPFamily.allCases) {
                #expect(client.isAnswered(milliseconds: 3000), "\(family)")
            }
            try stage.playground.deletePod("a")
            try stage.put([service] + stage.slices("dns", [.init(pod: "b")], ports: target))
            for (client, family) in zip(clients, IPFamily.allCases) {
                #expect(client.isAnswered(milliseconds: 3000), "\(family)")
            }
            try stage.put([service])
            usleep(500_000)
            for client in clients { #expect(!client.isAnswered(milliseconds: 300)) }
            try stage.put([service] + stage.slices("dns", [.init(pod: "b")], ports: target))
            for (client, family) in zip(clients, IPFamily.allCases) {
                #expect(client.isAnswered(milliseconds: 3000), "\(family)")
            }
        }
    }

    @Test func streamsToAnEndpointThatIsGoneAreReset() throws {
        try withServices { stage in
            let service = Stage.service("web", 1, ports: [["port": 80, "targetPort": 7008]])
            let target: [JSONValue] = [["port": 7008]]
            let ending: [String: JSONValue] = ["ready": false, "serving": true, "terminating": true]
            try stage.put([service] + stage.slices("web", [.init(pod: "b")], ports: target))
            let namespace = try stage.playground.namespace("c1")
            func clients() throws -> [StreamClient] {
                try IPFamily.allCases.map { family in
                    let address = try stage.ip(Stage.clusterIP(1, family))
                    var client: StreamClient?
                    try eventually(within: 4) {
                        client = try? StreamClient(to: address, port: 80, in: namespace, milliseconds: 1500)
                        return client != nil
                    }
                    return try #require(client)
                }
            }
            func expectReset(_ clients: [StreamClient]) {
                for client in clients {
                    do {
                        try client.exchange(bytes: 100)
                        Issue.record("answered")
                    } catch let error as SystemError {
                        // The last one where the socket itself was ended.
                        #expect([ECONNRESET, EPIPE, ECONNABORTED].contains(error.errno), "\(error)")
                    } catch {
                        // A reset that came between sending and receiving.
                        #expect("\(error)".contains("closed"), "\(error)")
                    }
                }
            }
            let streams = try clients()
            // While it ends, it is spoken to.
            try stage.put(
                [service]
                    + stage.slices("web", [.init(pod: "a"), .init(pod: "b", conditions: ending)], ports: target))
            let a = try stage.address("a", .v4)
            try eventually(within: 4) {
                try shell("nft list map inet knetd_services endpoints_tcp4", in: stage.playground.namespace("node1"))
                    .contains("\(a)")
            }
            for stream in streams { try stream.exchange(bytes: 100) }
            let gone = try stage.slices("web", [.init(pod: "a")], ports: target)
            try stage.playground.deletePod("b")
            try stage.put([service] + gone)
            usleep(500_000)
            expectReset(streams)
            // The last one goes too.
            let others = try clients()
            try stage.put([service] + stage.slices("web", [.init(pod: "a", conditions: ending)], ports: target))
            usleep(500_000)
            for stream in others { try stream.exchange(bytes: 100) }
            try stage.put([service])
            usleep(500_000)
            expectReset(others)
        }
    }

    @Test func aConnectionFromBeforeTheServiceDoesNotKeepItsPort() throws {
        try withServices(nodes: 1, servers: [("a", "node1")]) { stage in
            let namespace = try stage.playground.namespace("c1")
            func connect(_ family: IPFamily) throws -> Bool {
                let address = try stage.ip(Stage.clusterIP(1, family))
                let client = try? StreamClient(
                    to: address, port: 80, in: namespace, ownPort: family == .v4 ? 45_674 : 45_676, milliseconds: 300)
                try client?.exchange(bytes: 10)
                return client != nil
            }
            for family in IPFamily.allCases { #expect(try !connect(family)) }
            try stage.put(
                [Stage.service("web", 1, ports: [["port": 80, "targetPort": 7008]])]
                    + stage.slices("web", [.init(pod: "a")], ports: [["port": 7008]]))
            for family in IPFamily.allCases { try eventually(within: 4) { try connect(family) } }
        }
    }
}
