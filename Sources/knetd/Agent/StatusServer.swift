import KnetCore
import KnetLinux
import NIOCore
import NIOHTTP1
import NIOPosix

/// Serves `/healthz`, `/readyz` and `/metrics` over HTTP.
final class StatusServer: Sendable {
    typealias Response = WebPage

    private let channels: [any Channel]

    private init(channels: [any Channel]) { self.channels = channels }

    /// Listens on every address.
    /// - Throws: where one of them cannot be had; none is left open then.
    static func start(
        _ addresses: [Endpoint], respond: @escaping @Sendable (String) -> Response
    ) async throws -> StatusServer {
        var channels: [any Channel] = []
        for endpoint in addresses {
            do {
                let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                    .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
                    .childChannelInitializer { channel in
                        channel.eventLoop.makeCompletedFuture {
                            try channel.pipeline.syncOperations.configureHTTPServerPipeline(withErrorHandling: true)
                            try channel.pipeline.syncOperations.addHandler(Handler(respond: respond))
                        }
                    }
                    .bind(host: endpoint.address.description, port: endpoint.port).get()
                channels.append(channel)
            } catch {
                for channel in channels { try? await channel.close() }
                throw AddressUnavailable(endpoint: endpoint, reason: "\(error)")
            }
        }
        return StatusServer(channels: channels)
    }

    func stop() async {
        for channel in channels { try? await channel.close() }
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = HTTPServerRequestPart
        typealias OutboundOut = HTTPServerResponsePart

        private let respond: @Sendable (String) -> Response
        private var head: HTTPRequestHead?

        init(respond: @escaping @Sendable (String) -> Response) { self.respond = respond }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch unwrapInboundIn(data) {
            case .head(let head): self.head = head
            case .body: break
            case .end: answer(context)
            }
        }

        private func answer(_ context: ChannelHandlerContext) {
            guard let head else { return }
            guard head.method == .GET || head.method == .HEAD else {
                return write(Response(status: 405, text: "GET or HEAD\n"), to: head, context)
            }
            let path = String(head.uri.prefix { $0 != "?" })
            let context = NIOLoopBound(context, eventLoop: context.eventLoop)
            let handler = NIOLoopBound(self, eventLoop: context.eventLoop)
            // The answer reads the store, which may block.
            context.eventLoop.makeFutureWithTask { [respond] in try await blocking { respond(path) } }.whenSuccess {
                handler.value.write($0, to: head, context.value)
            }
        }

        private func write(_ response: Response, to head: HTTPRequestHead, _ context: ChannelHandlerContext) {
            var headers = HTTPHeaders()
            headers.add(name: "Content-Type", value: response.type)
            for (name, value) in response.headers { headers.add(name: name, value: value) }
            headers.add(name: "Content-Length", value: "\(response.text.utf8.count)")
            let answer = HTTPResponseHead(
                version: head.version, status: .init(statusCode: response.status), headers: headers)
            context.write(wrapOutboundOut(.head(answer)), promise: nil)
            if head.method != .HEAD {
                context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: response.text)))), promise: nil)
            }
            let isKept = head.isKeepAlive
            let channel = context.channel
            context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in
                if !isKept { channel.close(promise: nil) }
            }
        }
    }
}

/// A status address that cannot be listened on.
struct AddressUnavailable: Error, CustomStringConvertible {
    let endpoint: Endpoint
    let reason: String
    var cause: String { "cannot listen on \(endpoint): \(reason); another program may have it" }
    var description: String { "\(cause): change agent.statusAddresses, or set it to []" }
}
