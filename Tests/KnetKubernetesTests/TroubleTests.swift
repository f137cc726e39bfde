import APIDouble
import FoundationEssentials
import KnetCore
import Testing

@testable import KnetKubernetes

/// What is wrong on the way to the server is told with its cause and what to do about it.
@Suite struct TroubleTests {
    /// Of a server of its own, signed by itself, good from 2020 to 2021.
    private static let expired = """
        -----BEGIN CERTIFICATE-----
        MIIBVTCB/aADAgECAgEHMAoGCCqGSM49BAMCMCIxIDAeBgNVBAMMF2FuIGF1dGhv
        cml0eSB0aGF0IGVuZGVkMB4XDTIwMDEwMTAwMDAwMFoXDTIxMDEwMTAwMDAwMFow
        IjEgMB4GA1UEAwwXYW4gYXV0aG9yaXR5IHRoYXQgZW5kZWQwWTATBgcqhkjOPQIB
        BggqhkjOPQMBBwNCAATnkWLVHH0CL0lmA61tV8sx64qPA0i6ZZ7skomAYY8x44A+
        S95UnnpLtGttjKNJxvhk7bFN2NQaLi6tYJBoHd++oyQwIjAPBgNVHRMBAf8EBTAD
        AQH/MA8GA1UdEQQIMAaHBH8AAAEwCgYIKoZIzj0EAwIDRwAwRAIfeV5c90D2/I4n
        DwWaawxg2YR41XLfTMicSBspfF+7mwIhAJUWBHpmWYjosDU5wjuwrOim6rF7S4t6
        HRtwxgdsy0do
        -----END CERTIFICATE-----

        """
    private static let expiredKey = """
        -----BEGIN PRIVATE KEY-----
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgiqb3TDp2nXzDfSu4
        Br3pOjnl+Txxq0rwTsC6EYBICjShRANCAATnkWLVHH0CL0lmA61tV8sx64qPA0i6
        ZZ7skomAYY8x44A+S95UnnpLtGttjKNJxvhk7bFN2NQaLi6tYJBoHd++
        -----END PRIVATE KEY-----

        """

    /// The same, for the name api.example, good until 2120.
    private static let other = """
        -----BEGIN CERTIFICATE-----
        MIIBYjCCAQigAwIBAgIBCDAKBggqhkjOPQQDAjAjMSEwHwYDVQQDDBhhbiBhdXRo
        b3JpdHkgb2Ygb25lIG5hbWUwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAw
        MDBaMCMxITAfBgNVBAMMGGFuIGF1dGhvcml0eSBvZiBvbmUgbmFtZTBZMBMGByqG
        SM49AgEGCCqGSM49AwEHA0IABHzTC3jpRBmjSkKow1/ThZdJ+F0MyMacBqSSVCMt
        IJ2iBNDiAUbHHNRjTXpf1b/RnCUYt+EUG+ATuMBucTRENk6jKzApMA8GA1UdEwEB
        /wQFMAMBAf8wFgYDVR0RBA8wDYILYXBpLmV4YW1wbGUwCgYIKoZIzj0EAwIDSAAw
        RQIhAIT0OfqcM36lfRo8ud6IfGeKsaJ6teVDu8qimQGDUhnDAiB6LlC9Qt989Jtf
        BhXECetp5+iroCOFXWSinJpllIkGbg==
        -----END CERTIFICATE-----

        """
    private static let otherKey = """
        -----BEGIN PRIVATE KEY-----
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgDbzt0WnnUtEhmQfa
        V7CK6FV5EXNlJJyd9PUCZ2z/BSyhRANCAAR80wt46UQZo0pCqMNf04WXSfhdDMjG
        nAakklQjLSCdogTQ4gFGxxzUY016X9W/0ZwlGLfhFBvgE7jAbnE0RDZO
        -----END PRIVATE KEY-----

        """

    private static func base64(_ text: String) -> String { Data(text.utf8).base64EncodedString() }

    /// The first trouble that a follower of pods has.
    /// - Parameters:
    ///   - server: `nil` has none listening.
    ///   - cluster: of the kubeconfig, beside the server.
    private func trouble(
        _ server: APIDouble.Options?, scheme: String? = nil, cluster: String = "", user: String = "{}"
    ) async throws -> String {
        let double = try await APIDouble.start(server ?? .init())
        if server == nil { await double.stop() }
        var url = double.url
        if let scheme { url = scheme + url.drop { $0 != ":" } }
        let trouble = try await withKubeconfig(user: user, cluster: "server: \"\(url)\"\(cluster)") { kubeconfig in
            let follower = Follower(double, kinds: [.pod], kubeconfig: kubeconfig, servers: [])
            return try await follower.run { () -> String in
                let deadline = ContinuousClock.now + .seconds(15)
                while ContinuousClock.now < deadline {
                    let report = follower.reflectors[0].report
                    if let trouble = report.trouble { return trouble.description }
                    if report.isLive { return "none" }
                    try await Task.sleep(for: .milliseconds(5))
                }
                return "none in time"
            }
        }
        await double.stop()
        return trouble
    }

    private func tls(_ certificates: String = TestCertificates.server, _ key: String = TestCertificates.serverKey)
        -> APIDouble.Options
    {
        var options = APIDouble.Options()
        options.tls = .init(certificates: certificates, key: key, clientAuthority: TestCertificates.authority)
        return options
    }

    private var authority: String { ", certificate-authority-data: \(Self.base64(TestCertificates.authority))" }

    @Test func aServerWithACertificateOfTheAuthorityIsTrusted() async throws {
        #expect(try await trouble(tls(), cluster: authority) == "none")
        #expect(try await trouble(tls(), cluster: authority + ", tls-server-name: kubernetes.default.svc") == "none")
        #expect(try await trouble(tls(), cluster: ", insecure-skip-tls-verify: true") == "none")
    }

    @Test func aClientIsKnownByItsCertificate() async throws {
        var options = tls()
        options.tokens = []
        let user = """
            {client-certificate-data: \(Self.base64(TestCertificates.client)), \
            client-key-data: \(Self.base64(TestCertificates.clientKey))}
            """
        #expect(try await trouble(options, cluster: authority, user: user) == "none")
        let refused = try await trouble(options, cluster: authority)
        #expect(refused.contains("does not accept who asks (401); give a client certificate or a token"))
    }

    @Test func anotherAuthorityIsNamed() async throws {
        let other = ", certificate-authority-data: \(Self.base64(Self.expired))"
        let trouble = try await trouble(tls(), cluster: other)
        #expect(
            trouble.contains("is not signed by the certificate authority given; mind certificate-authority"),
            "\(trouble)")
    }

    @Test func anExpiredCertificateIsNamedWithItsEnd() async throws {
        let own = ", certificate-authority-data: \(Self.base64(Self.expired))"
        let trouble = try await trouble(tls(Self.expired, Self.expiredKey), cluster: own)
        #expect(trouble.contains("its certificate ended 2021-01-01T00:00:00Z; renew it"), "\(trouble)")
    }

    @Test func anotherNameIsTold() async throws {
        let own = ", certificate-authority-data: \(Self.base64(Self.other))"
        let server = tls(Self.other, Self.otherKey)
        let trouble = try await trouble(server, cluster: own)
        #expect(trouble.contains("its certificate is for api.example; use one of these names, or set tls-server-name"))
        #expect(try await self.trouble(server, cluster: own + ", tls-server-name: api.example") == "none")
    }

    @Test func aPortWithoutTLSIsTold() async throws {
        let trouble = try await trouble(.init(), scheme: "https")
        #expect(trouble.contains("does not speak TLS; mind the port"), "\(trouble)")
    }

    @Test func aServerThatIsNotThereIsTold() async throws {
        let trouble = try await trouble(nil)
        #expect(trouble.contains("cannot be reached: connection refused"), "\(trouble)")
    }

    @Test func oneKindThatIsForbiddenKeepsNoOtherBack() async throws {
        try await withKubeconfig { kubeconfig in
            let double = try await APIDouble.start()
            double.faults.forbidden = ["services"]
            try double.put(Example.object(.pod, "p", value: 1))
            let follower = Follower(double, kinds: [.pod, .service], kubeconfig: kubeconfig)
            try await follower.run {
                let deadline = ContinuousClock.now + .seconds(5)
                while !follower.store.current.isComplete([.pod]) || follower.reflectors[1].report.trouble == nil,
                    ContinuousClock.now < deadline
                { try await Task.sleep(for: .milliseconds(5)) }
                #expect(follower.store.current.isComplete([.pod]))
                let trouble = try #require(follower.reflectors[1].report.trouble)
                #expect(trouble.kind == .forbidden && trouble.description.contains("services"), "\(trouble)")
                #expect(trouble.description.contains("give knetd's ClusterRole the verb and resource"))
                double.faults = .none
                await follower.agrees(with: double)
            }
            await double.stop()
        }
    }

    /// Of several servers the next one is asked where one does not answer.
    @Test func severalServersAreTriedInTurn() async throws {
        try await withKubeconfig { kubeconfig in
            let away = try await APIDouble.start()
            await away.stop()
            let double = try await APIDouble.start()
            try double.put(Example.object(.pod, "p", value: 1))
            let follower = Follower(double, kinds: [.pod], kubeconfig: kubeconfig, servers: [away.url, double.url])
            try await follower.run { await follower.agrees(with: double) }
            await double.stop()
        }
    }
}
