import KnetCore
import NIOCore
import NIOPosix
import NIOSSL

/// Why a server's certificate is not accepted. TLS says no more than that it is not; so the certificate is asked for once
/// more, only to be looked at.
enum ServerCertificate {
    static func explanation(_ server: ServerURL, _ credentials: Credentials) async -> APIError {
        let shown = try? await certificate(of: server, credentials)
        guard let shown else {
            return APIError(.untrusted, "\(server) shows no certificate that can be trusted")
        }
        if let fault = Validity.fault(of: shown, what: "its certificate") {
            return APIError(
                .untrusted, "\(server) cannot be trusted: \(fault)", remedy: "renew it, and mind the clocks")
        }
        let name = credentials.serverName ?? server.host
        let names = Self.names(shown)
        if !names.contains(where: { matches($0, name) }) {
            return APIError(
                .untrusted, "\(server) cannot be trusted: its certificate is for \(names.joined(separator: ", "))",
                remedy: "use one of these names, or set tls-server-name in the kubeconfig")
        }
        return APIError(
            .untrusted, "\(server) cannot be trusted: its certificate is not signed by the certificate authority given",
            remedy: "mind certificate-authority: it is of another cluster, or the authority was renewed")
    }

    private static func certificate(of server: ServerURL, _ credentials: Credentials) async throws -> NIOSSLCertificate
    {
        var tls = credentials.tls
        tls.certificateVerification = .noHostnameVerification
        let context = try NIOSSLContext(configuration: tls)
        let name = credentials.serverName ?? server.host
        let promise = MultiThreadedEventLoopGroup.singleton.any().makePromise(of: NIOSSLCertificate.self)
        let connection = ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .connectTimeout(.seconds(5))
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let handler = try NIOSSLClientHandler(
                        context: context, serverHostname: ServerName.isAddress(name) ? nil : name
                    ) { certificates, verified in
                        if let first = certificates.first { promise.succeed(first) }
                        verified.succeed(NIOSSLVerificationResult.failed)
                    }
                    try channel.pipeline.syncOperations.addHandler(handler)
                }
            }
            .connect(host: server.host, port: server.port)
        connection.whenFailure { promise.fail($0) }
        connection.whenSuccess { channel in
            channel.closeFuture.whenComplete { _ in promise.fail(ChannelError.eof) }
            channel.eventLoop.scheduleTask(in: .seconds(5)) { channel.close(promise: nil) }
        }
        return try await promise.futureResult.get()
    }

    private static func names(_ certificate: NIOSSLCertificate) -> [String] {
        let names = certificate._subjectAlternativeNames()
        return names.compactMap { name in
            let bytes = Array(name.contents)
            switch name.nameType {
            case .dnsName: return String(decoding: bytes, as: UTF8.self)
            case .ipAddress: return ServerName.address(bytes)
            default: return nil
            }
        }
    }

    private static func matches(_ pattern: String, _ name: String) -> Bool {
        if pattern.hasPrefix("*.") {
            return name.split(separator: ".", maxSplits: 1).last.map { ".\($0)" == pattern.dropFirst() } ?? false
        }
        return pattern.lowercased() == name.lowercased()
    }
}
