import KnetCore
import KnetLinux
import TestSupport
import Testing

/// Routes by several gateways, in the kernel and back.
@Suite(.enabled(if: Root.isAvailable)) struct GatewayRouteTests {
    @Test func theyAreReadAsTheyWereSet() throws {
        let namespace = try NetworkNamespace.anonymous()
        try namespace.run {
            let socket = try NetlinkSocket()
            try socket.createVeth(
                VethRequest(
                    name: "a", mac: MACAddress(derivedFrom: "a"), alias: nil, peerName: "b",
                    peerMAC: MACAddress(derivedFrom: "b"), peerNamespace: nil, mtu: 1500, hasLinkLocal: true))
            let index = try NetlinkSocket.index(of: "a")
            var batch = NetlinkBatch()
            for name in ["a", "b"] { batch.append(.changeLink(index: try NetlinkSocket.index(of: name), up: true)) }
            for (text, length) in [("192.0.2.1", 24), ("2001:db8::1", 64)] {
                batch.append(.addAddress(try #require(IPAddress(text)), prefixLength: length, index: index))
            }
            for case let error? in try socket.send(batch) { throw error }
            for (prefix, texts) in [
                ("10.0.0.0/24", ["192.0.2.7"]), ("10.0.1.0/24", ["192.0.2.7", "192.0.2.8", "192.0.2.9"]),
                ("fd01::/64", ["2001:db8::7"]), ("fd02::/64", ["2001:db8::7", "2001:db8::8"]),
            ] {
                let destination = try #require(CIDR(prefix))
                for count in [texts.count, 1, texts.count] {
                    let route = GatewayRoute(
                        destination: destination, gateways: Set(texts.prefix(count).compactMap { IPAddress($0) }))
                    try socket.request(.setGatewayRoute(route))
                    #expect(
                        try socket.gatewayRoutes(destination.family).filter { $0.destination == destination } == [route]
                    )
                }
                let route = GatewayRoute(destination: destination, gateways: Set(texts.compactMap { IPAddress($0) }))
                try socket.request(.deleteGatewayRoute(route))
                #expect(try socket.gatewayRoutes(destination.family).isEmpty)
            }
        }
    }
}
