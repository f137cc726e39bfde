import APIDouble
import AsyncHTTPClient
import Glibc
import KnetCore
import NIOSSL
import Testing

@Suite struct AccessTests {
    @Test("only accepted tokens are let in, and they can be changed at run time")
    func tokens() async throws {
        var options = APIDouble.Options()
        options.tokens = ["old"]
        try await Client.with(options) { client in
            var client = client
            #expect(try await client.get("/readyz").text == "ok")
            let refusal = try await client.get("/api/v1/nodes")
            #expect(refusal.code == 401)
            #expect(
                refusal.text
                    == #"{"apiVersion":"v1","code":401,"kind":"Status","message":"Unauthorized","metadata":{},"reason":"Unauthorized","status":"Failure"}"#
                    + "\n")
            client.headers = [("Authorization", "Bearer old")]
            #expect(try await client.get("/api/v1/nodes").code == 200)
            client.server.tokens = ["new"]
            #expect(try await client.get("/api/v1/nodes").code == 401)
            #expect(client.server.requests.last?.token == "old")
        }
    }

    @Test("TLS serves who trusts its authority, and a client's certificate replaces a token", arguments: [false, true])
    func tls(showsCertificate: Bool) async throws {
        var options = APIDouble.Options()
        options.tls = .forTests
        options.tokens = []
        var tls = TLSConfiguration.makeClientConfiguration()
        tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(Array(TestCertificates.authority.utf8)))
        if showsCertificate {
            tls.certificateChain = try NIOSSLCertificate.fromPEMBytes(Array(TestCertificates.client.utf8))
                .map { .certificate($0) }
            tls.privateKey = .privateKey(
                try NIOSSLPrivateKey(bytes: Array(TestCertificates.clientKey.utf8), format: .pem))
        }
        try await Client.with(try await APIDouble.start(options), HTTPClient.Configuration(tlsConfiguration: tls)) {
            let code = try await $0.get("/api/v1/nodes").code
            #expect(code == (showsCertificate ? 200 : 401))
        }
    }

    @Test("who does not trust its authority gets nowhere")
    func distrust() async throws {
        var options = APIDouble.Options()
        options.tls = .forTests
        try await Client.with(try await APIDouble.start(options), HTTPClient.Configuration()) { client in
            await #expect(throws: (any Error).self) { try await client.get("/api/v1/nodes") }
            #expect(client.server.requests.isEmpty)
        }
    }

    @Test("a restarted server has its port, its objects and its history")
    func restart() async throws {
        try await Client.with { client in
            let server = client.server
            try server.put(Example.node("n"))
            let port = server.port
            _ = try await client.get("/api/v1/nodes")
            await server.stop()
            await #expect(throws: (any Error).self) { try await client.get("/api/v1/nodes") }
            try await server.restart()
            #expect(server.port == port)
            let events = try await client.watch("/api/v1/nodes?watch=1&resourceVersion=1000", count: 1)
            #expect(events.map(\.line) == ["ADDED n"])
        }
    }

    @Test("it serves on a socket that was bound for it, and again after a restart")
    func boundSocket() async throws {
        let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        try #require(socket >= 0)
        defer { close(socket) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(socket, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(bound == 0)
        var options = APIDouble.Options()
        options.listener = .socket(socket)
        try await Client.with(options) { client in
            #expect(try await client.get("/readyz").code == 200)
            await client.server.stop()
            await #expect(throws: (any Error).self) { try await client.get("/readyz") }
            try await client.server.restart()
            #expect(try await client.get("/readyz").code == 200)
        }
    }

    @Test("discovery tells what is served")
    func discovery() async throws {
        try await Client.with { client in
            client.server.register(.clusterNetworkPolicies)
            let path = "/apis/policy.networking.k8s.io/v1alpha2"
            let names = try await client.get(path).json?["resources"]?.array?.compactMap { $0["name"]?.string }
            #expect(names == ["clusternetworkpolicies"])
        }
    }
}
