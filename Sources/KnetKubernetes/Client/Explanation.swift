import AsyncHTTPClient
import Glibc
import KnetCore
import NIOCore
import NIOPosix
import NIOSSL

/// Turns what a connection, TLS or the server says into a cause and a remedy.
enum Explanation {
    private static let timeouts: [HTTPClientError] = [
        .connectTimeout, .deadlineExceeded, .readTimeout, .tlsHandshakeTimeout,
    ]

    static func of(_ error: any Error, _ server: ServerURL, _ credentials: Credentials) async -> APIError {
        let text = String(describing: error)
        switch error {
        case let error as NIOConnectionError:
            let reasons = Set(error.connectionErrors.map { Self.reason($0.error) }).sorted()
            if error.connectionErrors.isEmpty || error.dnsAError != nil {
                return APIError(
                    .unreachable,
                    "the name \(server.host) is not known (\(error.dnsAError.map { "\($0)" } ?? "no address"))",
                    remedy: "give an address in cluster.kubernetes.servers: the cluster's DNS needs knetd first")
            }
            return unreachable(server, reasons.joined(separator: ", "))
        case let error as IOError: return unreachable(server, reason(error))
        case let error as HTTPClientError where timeouts.contains(error):
            return unreachable(server, "no answer in time")
        case let error as HTTPClientError where [.remoteConnectionClosed, .uncleanShutdown].contains(error):
            return unreachable(server, "the connection was closed")
        default: break
        }
        if text.contains("WRONG_VERSION_NUMBER") || text.contains("HTTP_REQUEST") || text.contains("INVALID_ALPN") {
            return APIError(
                .untrusted, "\(server) does not speak TLS", remedy: "mind the port; http:// is for servers without TLS")
        }
        if text.contains("CERTIFICATE_VERIFY_FAILED") || text.contains("failedToValidateHostname")
            || text.contains("unableToValidateCertificate") || error is NIOSSLExtraError
        {
            return await ServerCertificate.explanation(server, credentials)
        }
        if text.contains("ALERT") {
            return APIError(
                .untrusted, "\(server) refused the connection (\(text))",
                remedy: credentials.certificateFault ?? "it may not accept the client certificate")
        }
        return unreachable(server, text)
    }

    private static func unreachable(_ server: ServerURL, _ reason: String) -> APIError {
        APIError(.unreachable, "\(server) cannot be reached: \(reason)")
    }

    private static func reason(_ error: any Error) -> String {
        guard let error = error as? IOError else { return "\(error)" }
        return String(cString: strerror(error.errnoCode)).lowercased()
    }

    static func of(
        status: UInt, _ message: StatusMessage?, retryAfter: Int?, _ request: APIClient.Request, _ server: ServerURL,
        _ credentials: Credentials
    ) -> APIError {
        let said = message?.message ?? "HTTP status \(status)"
        switch status {
        case 401:
            let fault = credentials.certificateFault
            return APIError(
                .unauthorized, "\(server) does not accept who asks (401)\(fault.map { ": \($0)" } ?? "")",
                remedy: credentials.authorization == nil && credentials.tls.certificateChain.isEmpty
                    ? "give a client certificate or a token"
                    : "renew the \(credentials.authorization == nil ? "client certificate" : "token")")
        case 403:
            return APIError(.forbidden, said, remedy: "give knetd's ClusterRole the verb and resource")
        case 404: return APIError(.notServed, "\(server) does not have \(request.path)")
        case 409: return APIError(.conflict, "\(server): \(said)")
        case 410: return APIError(.expired, said)
        case 400 where said.contains("HTTP request to an HTTPS server"):
            return APIError(.untrusted, "\(server) speaks TLS", remedy: "use https://")
        case 429, 500...: return APIError(.unable(retryAfter: message?.retryAfter ?? retryAfter), "\(server): \(said)")
        default: return APIError(.refused, "\(server): \(said)")
        }
    }
}
