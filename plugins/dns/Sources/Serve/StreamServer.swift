import Glibc
import KnetCore
import KnetLinux
import NIOCore
import NIOPosix

/// Answers over TCP (RFC 7766): queries of one connection are answered as they are ready, in whatever order.
final class StreamServer: Sendable {
    private let channel: any Channel

    /// Time without a query after which a connection is closed.
    private static let idleTime = TimeAmount.seconds(10)
    /// Queries of one connection that may wait for their answers.
    private static let mostWaiting = 128

    /// - Parameters:
    ///   - socket: listens already.
    ///   - answer: makes the answer to a query of a client.
    init(
        _ socket: SharedDescriptor, on loop: any EventLoop,
        answer: @escaping @Sendable ([UInt8], IPAddress) async -> [UInt8]?
    ) throws {
        let own = try syscall("dup") { fcntl(socket.number, F_DUPFD_CLOEXEC, 0) }
        channel = try ServerBootstrap(group: loop)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    guard let client = channel.remoteAddress?.ipAddress.flatMap({ IPAddress($0) }) else {
                        throw ChannelError.unknownLocalAddress
                    }
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.addHandler(IdleStateHandler(readTimeout: Self.idleTime))
                    try pipeline.addHandler(ByteToMessageHandler(StreamFrames(), maximumBufferSize: 65_537))
                    try pipeline.addHandler(QueryHandler(client, answer))
                }
            }
            .withBoundSocket(own).wait()
    }

    func stop() { channel.close(promise: nil) }

    private final class QueryHandler: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer

        private let client: IPAddress
        private let answer: @Sendable ([UInt8], IPAddress) async -> [UInt8]?
        private var waiting = 0

        init(_ client: IPAddress, _ answer: @escaping @Sendable ([UInt8], IPAddress) async -> [UInt8]?) {
            self.client = client
            self.answer = answer
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            guard waiting < StreamServer.mostWaiting else {
                context.close(promise: nil)
                return
            }
            waiting += 1
            let query = Array(unwrapInboundIn(data).readableBytesView)
            let channel = context.channel
            let done = channel.eventLoop.makePromise(of: Void.self)
            done.futureResult.assumeIsolated().whenComplete { _ in self.waiting -= 1 }
            Task { [answer, client] in
                if let reply = await answer(query, client) {
                    channel.writeAndFlush(StreamFrames.frame(reply), promise: nil)
                } else {
                    // What is no query has no answer.
                    channel.close(promise: nil)
                }
                done.succeed()
            }
        }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if event is IdleStateHandler.IdleStateEvent { context.close(promise: nil) }
            context.fireUserInboundEventTriggered(event)
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }
}
