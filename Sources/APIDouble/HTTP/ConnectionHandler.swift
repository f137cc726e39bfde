import Glibc
import NIOCore
import NIOHTTP1
import NIOSSL
import Synchronization

/// Ends a connection below TLS and HTTP. Stands first in the pipeline.
final class TransportHandler: ChannelOutboundHandler {
    typealias OutboundIn = ByteBuffer

    func triggerUserOutboundEvent(context: ChannelHandlerContext, event: Any, promise: EventLoopPromise<Void>?) {
        guard let end = event as? AbruptEnd else {
            context.triggerUserOutboundEvent(event, promise: promise)
            return
        }
        if end == .reset, let socket = context.channel as? any SocketOptionProvider {
            // On the event loop this takes effect at once.
            _ = socket.setSoLinger(linger(l_onoff: 1, l_linger: 0))
        }
        context.close(mode: .all, promise: promise)
    }
}

/// Collects requests and hands them on, one at a time.
final class ConnectionHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let dispatcher: Dispatcher
    private var head: HTTPRequestHead?
    private var body = ByteBuffer()
    private var exchange: Exchange?

    init(dispatcher: Dispatcher) { self.dispatcher = dispatcher }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head):
            self.head = head
            body.clear()
        case .body(var part): body.writeBuffer(&part)
        case .end:
            guard let head else { return }
            let certificate = try? context.pipeline.syncOperations.nioSSL_peerCertificate()
            let exchange = Exchange(
                channel: context.channel, head: head, body: body, hasClientCertificate: certificate != nil)
            self.exchange = exchange
            dispatcher.handle(exchange)
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        // Not at once: this may be told in the middle of a write, whose bytes belong together.
        exchange?.watch.withLock { $0 }?.wake()
        context.fireChannelWritabilityChanged()
    }

    func channelInactive(context: ChannelHandlerContext) {
        exchange?.watch.withLock { $0 }?.finish()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}
