import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL

/// The listening socket, its connections and the threads that serve them.
final class Server: Sendable {
    private let group: MultiThreadedEventLoopGroup
    let port: Int

    /// - Throws: what NIO has to say about the address, the socket or the certificates.
    static func start(_ options: APIDouble.Options, dispatcher: Dispatcher) async throws -> Server {
        let tls = try options.tls.map(makeContext)
        let group = MultiThreadedEventLoopGroup(numberOfThreads: options.threads)
        let bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelOption(.backlog, value: 256)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.addHandler(TransportHandler())
                    if let tls { try pipeline.addHandler(NIOSSLServerHandler(context: tls)) }
                    try pipeline.configureHTTPServerPipeline(withPipeliningAssistance: false)
                    try pipeline.addHandler(ConnectionHandler(dispatcher: dispatcher))
                }
            }
        do {
            let channel = try await listen(bootstrap, options.listener)
            return Server(group: group, port: channel.localAddress?.port ?? 0)
        } catch {
            try? await group.shutdownGracefully()
            throw error
        }
    }

    private init(group: MultiThreadedEventLoopGroup, port: Int) {
        self.group = group
        self.port = port
    }

    /// Closes the listener and all connections.
    func stop() async { try? await group.shutdownGracefully() }

    private static func listen(
        _ bootstrap: ServerBootstrap, _ listener: APIDouble.Options.Listener
    ) async throws -> any Channel {
        switch listener {
        case .address(let address, let port): return try await bootstrap.bind(host: address, port: port).get()
        case .socket(let socket):
            let copy = fcntl(socket, F_DUPFD_CLOEXEC, 0)
            guard copy >= 0, Glibc.listen(copy, 256) == 0 else {
                throw IOError(errnoCode: errno, reason: "listen on socket \(socket)")
            }
            return try await bootstrap.withBoundSocket(copy).get()
        }
    }

    private static func makeContext(_ tls: APIDouble.Options.TLS) throws -> NIOSSLContext {
        let certificates = try NIOSSLCertificate.fromPEMBytes(Array(tls.certificates.utf8))
        let key = try NIOSSLPrivateKey(bytes: Array(tls.key.utf8), format: .pem)
        var configuration = TLSConfiguration.makeServerConfiguration(
            certificateChain: certificates.map { .certificate($0) }, privateKey: .privateKey(key))
        configuration.applicationProtocols = ["http/1.1"]
        if let authority = tls.clientAuthority {
            configuration.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(Array(authority.utf8)))
            configuration.certificateVerification = .optionalVerification
        }
        return try NIOSSLContext(configuration: configuration)
    }
}
