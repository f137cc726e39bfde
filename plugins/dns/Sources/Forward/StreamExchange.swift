import KnetCore
import NIOCore
import NIOPosix
import NIOSSL

/// Questions asked over TCP or TLS. One connection serves many, until it was idle for a while (RFC 7766 §6.2, RFC 7858 §3.4). It belongs
/// to its event loop.
final class StreamExchange: Sendable {
    private let upstream: UpstreamAddress
    private let lifetimes: UpstreamReply.Lifetimes
    private let loop: any EventLoop
    private let state: NIOLoopBoundBox<State>

    private struct State {
        var connection: EventLoopFuture<any Channel>?
        var pending: [UInt16: Pending] = [:]
    }

    private struct Pending {
        let question: Question
        let promise: EventLoopPromise<UpstreamReply>
    }

    private static let idleTime = TimeAmount.seconds(10)
    private static let connectTime = TimeAmount.seconds(3)

    init(_ upstream: UpstreamAddress, lifetimes: UpstreamReply.Lifetimes, on loop: any EventLoop) {
        self.upstream = upstream
        self.lifetimes = lifetimes
        self.loop = loop
        state = NIOLoopBoundBox.makeBoxSendingValue(State(), eventLoop: loop)
    }

    /// - Throws: where the upstream cannot be reached, or closes the connection.
    func ask(_ question: Question, withEDNS: Bool) async throws -> UpstreamReply {
        let promise = loop.makePromise(of: UpstreamReply.self)
        loop.execute { self.send(question, withEDNS, promise) }
        return try await withTaskCancellationHandler {
            try await promise.futureResult.get()
        } onCancel: {
            loop.execute { self.abandon(promise) }
        }
    }

    private func abandon(_ promise: EventLoopPromise<UpstreamReply>) {
        for (id, pending) in state.value.pending where pending.promise.futureResult === promise.futureResult {
            state.value.pending[id] = nil
        }
        promise.fail(CancellationError())
    }

    private func send(_ question: Question, _ withEDNS: Bool, _ promise: EventLoopPromise<UpstreamReply>) {
        let connection = state.value.connection ?? connect()
        state.value.connection = connection
        connection.whenComplete { result in
            switch result {
            case .failure(let error):
                self.state.value.connection = nil
                promise.fail(error)
            case .success(let channel):
                var id = UInt16.random(in: 0 ... .max)
                while self.state.value.pending[id] != nil { id &+= 1 }
                self.state.value.pending[id] = Pending(question: question, promise: promise)
                let message = QueryMessage.bytes(question, id: id, withEDNS: withEDNS)
                channel.writeAndFlush(StreamFrames.frame(message)).whenFailure { self.close($0) }
            }
        }
    }

    private func connect() -> EventLoopFuture<any Channel> {
        do {
            let address = try SocketAddress(ipAddress: "\(upstream.endpoint.address)", port: upstream.endpoint.port)
            let tls = try upstream.tlsName.map { (try NIOSSLContext(configuration: .makeClientConfiguration()), $0) }
            return ClientBootstrap(group: loop)
                .connectTimeout(Self.connectTime)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        let pipeline = channel.pipeline.syncOperations
                        if let (context, name) = tls {
                            // An address cannot be sent as the server's name; it is checked as one of the certificate's.
                            let sent = IPAddress(name) == nil ? name : nil
                            try pipeline.addHandler(NIOSSLClientHandler(context: context, serverHostname: sent))
                        }
                        try pipeline.addHandler(IdleStateHandler(allTimeout: Self.idleTime))
                        try pipeline.addHandler(ByteToMessageHandler(StreamFrames(), maximumBufferSize: 65_537))
                        try pipeline.addHandler(ReplyHandler(self))
                    }
                }
                .connect(to: address)
        } catch {
            return loop.makeFailedFuture(error)
        }
    }

    private func receive(_ message: ByteBuffer) {
        message.withUnsafeReadableBytes { bytes in
            guard bytes.count >= Query.headerLength, let pending = state.value.pending[bytes.short(0)] else { return }
            let reply = UpstreamReply(bytes, to: pending.question, id: bytes.short(0), lifetimes: lifetimes)
            if case .foreign = reply { return }
            state.value.pending[bytes.short(0)] = nil
            pending.promise.succeed(reply)
        }
    }

    private func close(_ error: any Error) {
        state.value.connection = nil
        let pending = state.value.pending
        state.value.pending = [:]
        for one in pending.values { one.promise.fail(error) }
    }

    private final class ReplyHandler: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer

        private let exchange: StreamExchange
        private var failure: any Error = ChannelError.eof

        init(_ exchange: StreamExchange) { self.exchange = exchange }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) { exchange.receive(unwrapInboundIn(data)) }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if event is IdleStateHandler.IdleStateEvent { context.close(promise: nil) }
            context.fireUserInboundEventTriggered(event)
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            failure = error
            context.close(promise: nil)
        }

        func channelInactive(context: ChannelHandlerContext) { exchange.close(failure) }
    }
}
