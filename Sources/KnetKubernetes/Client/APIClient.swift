import AsyncHTTPClient
import FoundationEssentials
import KnetCore
import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import Synchronization

/// Asks the API server. Several servers are tried in turn; the one that answered stays.
final class APIClient: Sendable {
    struct Request {
        var method: HTTPMethod = .GET
        /// Without the server's part, as `/api/v1/nodes`.
        var path: String
        var query: [(String, String)] = []
        var accept = MediaType.json
        var contentType: String?
        var body: [UInt8] = []
        /// Until the head of the answer is there.
        var patience = Duration.seconds(15)
    }

    /// Requests by what became of them, for metrics.
    struct Figures: Sendable {
        var answers: [UInt: Int] = [:]
        var failures = 0
    }

    private struct Shared {
        var server = 0
        var figures = Figures()
        var clients: [Route: HTTPClient] = [:]
    }

    /// What a connection needs beyond the URL.
    private struct Route: Hashable {
        /// The name on the certificate, with the host that it stands for.
        var alias: [String: String] = [:]
        var proxy: String?
    }

    private let group: any EventLoopGroup
    private let credentials: CredentialStore
    private let pace: RequestPace
    let timing: Timing
    private let userAgent: String
    private let shared = Mutex(Shared())

    /// Bytes of the largest answer that is read as a whole.
    private static let limit = 256 << 20

    /// - Parameter servers: instead of those that the access names.
    init(access: AccessSource, servers: [String], version: String, timing: Timing = Timing(), group: any EventLoopGroup)
    {
        self.timing = timing
        pace = RequestPace(perSecond: timing.requestsPerSecond, burst: timing.burst)
        credentials = CredentialStore(source: access, servers: servers)
        userAgent = "knetd/\(version)"
        self.group = group
    }

    func shutdown() async {
        let clients = shared.withLock { shared in
            defer { shared.clients = [:] }
            return shared.clients.values
        }
        for client in clients { try? await client.shutdown() }
    }

    var figures: Figures { shared.withLock { $0.figures } }

    /// Sends the request and hands out the answer, whose body is still to come.
    /// - Throws: also where the server answers anything but 2xx.
    func answer(_ request: Request) async throws(APIError) -> HTTPClientResponse {
        let credentials = try await credentials.current()
        let first = shared.withLock { $0.server }
        var failures: [APIError] = []
        for attempt in credentials.servers.indices {
            let index = (first + attempt) % credentials.servers.count
            let server = credentials.servers[index]
            do {
                let response = try await send(request, to: server, credentials)
                shared.withLock { $0.server = index }
                return try await checked(response, request, server, credentials)
            } catch  where error.isOfServer {
                failures.append(error)
                shared.withLock { $0.server = (index + 1) % credentials.servers.count }
            }
        }
        throw Self.summary(failures)
    }

    /// Sends the request and reads the answer's body.
    func bytes(_ request: Request) async throws(APIError) -> (body: ByteBuffer, isProtobuf: Bool) {
        let response = try await answer(request)
        do {
            return (try await response.body.collect(upTo: Self.limit), response.isProtobuf)
        } catch {
            throw APIError(.broken, "the answer to \(request.path) broke off (\(error))")
        }
    }

    // MARK: One server

    private func send(_ request: Request, to server: ServerURL, _ credentials: Credentials) async throws(APIError)
        -> HTTPClientResponse
    {
        var message = HTTPClientRequest(url: url(request, server, credentials))
        message.method = request.method
        message.tlsConfiguration = credentials.tls
        message.headers.add(name: "User-Agent", value: userAgent)
        message.headers.add(name: "Accept", value: request.accept)
        if let authorization = credentials.authorization {
            message.headers.add(name: "Authorization", value: authorization)
        }
        if let type = request.contentType {
            message.headers.add(name: "Content-Type", value: type)
            message.body = .bytes(ByteBuffer(bytes: request.body))
        }
        do {
            try await pace.turn()
            let response = try await client(server, credentials).execute(
                message, timeout: .nanoseconds(Int64(request.patience / .nanoseconds(1))))
            shared.withLock { $0.figures.answers[response.status.code, default: 0] += 1 }
            return response
        } catch {
            shared.withLock { $0.figures.failures += 1 }
            throw await Explanation.of(error, server, credentials)
        }
    }

    private func client(_ server: ServerURL, _ credentials: Credentials) -> HTTPClient {
        var route = Route(proxy: credentials.proxy)
        if let name = credentials.serverName { route.alias = [name: server.host] }
        return shared.withLock { shared in
            if let client = shared.clients[route] { return client }
            let client = HTTPClient(eventLoopGroup: group, configuration: configuration(route))
            shared.clients[route] = client
            return client
        }
    }

    private func configuration(_ route: Route) -> HTTPClient.Configuration {
        var configuration = HTTPClient.Configuration(redirectConfiguration: .disallow)
        configuration.timeout = .init(connect: .seconds(5), read: .nanoseconds(Int64(timing.silence / .nanoseconds(1))))
        // A watch holds its connection; with one each, none waits for another's bytes.
        configuration.httpVersion = .http1Only
        configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 32
        configuration.connectionPool.retryConnectionEstablishment = false
        configuration.http1_1ConnectionDebugInitializer = { ConnectionOptions.set(on: $0) }
        configuration.dnsOverride = route.alias
        if let proxy = route.proxy.flatMap(ServerURL.init) {
            configuration.proxy = .server(host: proxy.host, port: proxy.port)
        }
        return configuration
    }

    private func url(_ request: Request, _ server: ServerURL, _ credentials: Credentials) -> String {
        let query = request.query.map { "\($0.0)=\($0.1.percentEncoded)" }.joined(separator: "&")
        let server = credentials.serverName.map(server.named) ?? server
        return "\(server)\(request.path)" + (query.isEmpty ? "" : "?\(query)")
    }

    private func checked(
        _ response: HTTPClientResponse, _ request: Request, _ server: ServerURL, _ credentials: Credentials
    ) async throws(APIError) -> HTTPClientResponse {
        if (200..<300).contains(response.status.code) {
            let type = response.headers.first(name: "Content-Type") ?? "none"
            guard type.hasPrefix(MediaType.json) || type.hasPrefix(MediaType.protobuf) else {
                throw APIError(
                    .unreachable, "\(server) answers with \(type): it is no API server",
                    remedy: "mind the port, or a proxy on the way")
            }
            return response
        }
        if response.status == .unauthorized { self.credentials.forget() }
        let body = (try? await response.body.collect(upTo: 1 << 20)) ?? ByteBuffer()
        throw Explanation.of(
            status: response.status.code, StatusMessage(body, isProtobuf: response.isProtobuf),
            retryAfter: response.headers.first(name: "Retry-After").flatMap { Int($0) }, request, server, credentials)
    }

    private static func summary(_ failures: [APIError]) -> APIError {
        guard let first = failures.first, failures.count > 1 else {
            return failures.first ?? APIError(.access, "no API server is named")
        }
        return APIError(
            first.kind, failures.map(\.cause).joined(separator: "; "), remedy: failures.compactMap(\.remedy).first)
    }
}

/// Media types of the API.
enum MediaType {
    static let json = "application/json"
    static let protobuf = "application/vnd.kubernetes.protobuf"
    static let protobufWatch = "application/vnd.kubernetes.protobuf;stream=watch"
    static let strategicMerge = "application/strategic-merge-patch+json"
}

extension HTTPClientResponse {
    var isProtobuf: Bool { headers.first(name: "Content-Type")?.hasPrefix(MediaType.protobuf) == true }
}

extension APIError {
    /// Whether another server may do better.
    fileprivate var isOfServer: Bool {
        switch kind {
        case .unreachable, .untrusted: true
        default: false
        }
    }
}

extension String {
    /// For a value in a URL's query (RFC 3986).
    fileprivate var percentEncoded: String {
        utf8.reduce(into: "") { text, byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"):
                text.unicodeScalars.append(Unicode.Scalar(byte))
            default:
                let hex = String(byte, radix: 16, uppercase: true)
                text += hex.count == 1 ? "%0\(hex)" : "%\(hex)"
            }
        }
    }
}

/// Notices a server's silent death on a connection that has nothing to send.
private enum ConnectionOptions {
    static func set(on channel: any Channel) -> EventLoopFuture<Void> {
        let options: [(ChannelOptions.Types.SocketOption, ChannelOptions.Types.SocketOption.Value)] = [
            (.init(level: .socket, name: .so_keepalive), 1),
            (.init(level: .tcp, name: .init(rawValue: TCP.keepIdle)), 15),
            (.init(level: .tcp, name: .init(rawValue: TCP.keepInterval)), 5),
            (.init(level: .tcp, name: .init(rawValue: TCP.keepCount)), 3),
            (.init(level: .tcp, name: .init(rawValue: TCP.userTimeout)), 30_000),
        ]
        let set = options.map { channel.setOption($0.0, value: $0.1) }
        return EventLoopFuture.andAllSucceed(set, on: channel.eventLoop)
    }

    /// <linux/tcp.h>
    private enum TCP {
        static let keepIdle: Int32 = 4
        static let keepInterval: Int32 = 5
        static let keepCount: Int32 = 6
        static let userTimeout: Int32 = 18
    }
}
