import Glibc
import KnetCore
import NIOCore
import NIOPosix

/// A question asked over UDP, from a port and with a number that nobody can guess (RFC 5452 §9). The socket is connected: the kernel
/// drops what others send. What comes and is no answer is not taken for one.
enum DatagramExchange {
    /// It waits until the task is cancelled. (A timer of its own for each would cost the loop a search through all of them.)
    /// - Throws: where the upstream is not there.
    static func ask(
        _ upstream: UpstreamAddress, _ question: Question, withEDNS: Bool, lifetimes: UpstreamReply.Lifetimes,
        on loop: any EventLoop
    ) async throws -> UpstreamReply {
        let id = UInt16.random(in: 0 ... .max)
        let reply = loop.makePromise(of: UpstreamReply.self)
        let channel: any Channel
        do {
            let address = try SocketAddress(ipAddress: "\(upstream.endpoint.address)", port: upstream.endpoint.port)
            channel = try await DatagramBootstrap(group: loop)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(
                            ReplyHandler(reply) {
                                UpstreamReply($0, to: question, id: id, lifetimes: lifetimes)
                            })
                    }
                }
                .connect(to: address).get()
        } catch {
            reply.fail(error)
            throw error
        }
        return try await withTaskCancellationHandler {
            let message = QueryMessage.bytes(question, id: id, withEDNS: withEDNS)
            channel.writeAndFlush(ByteBuffer(bytes: message)).cascadeFailure(to: reply)
            defer { channel.close(promise: nil) }
            return try await reply.futureResult.get()
        } onCancel: {
            channel.close(promise: nil)
        }
    }

    private final class ReplyHandler: ChannelInboundHandler {
        typealias InboundIn = AddressedEnvelope<ByteBuffer>

        private let promise: EventLoopPromise<UpstreamReply>
        private let read: (UnsafeRawBufferPointer) -> UpstreamReply
        private var isDone = false

        init(_ promise: EventLoopPromise<UpstreamReply>, _ read: @escaping (UnsafeRawBufferPointer) -> UpstreamReply) {
            self.promise = promise
            self.read = read
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let reply = unwrapInboundIn(data).data.withUnsafeReadableBytes(read)
            if case .foreign = reply { return }
            finish(.success(reply))
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { finish(.failure(error)) }

        func channelInactive(context: ChannelHandlerContext) { finish(.failure(ChannelError.eof)) }

        private func finish(_ result: Result<UpstreamReply, any Error>) {
            if isDone { return }
            isDone = true
            promise.completeWith(result)
        }
    }
}

/// Queries that are asked of others.
enum QueryMessage {
    static func bytes(_ question: Question, id: UInt16, withEDNS: Bool) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(short: id)
        bytes.append(
            short: Flags.recursionDesired | (question.options.contains(.unchecked) ? Flags.checkingDisabled : 0))
        for count: UInt16 in [1, 0, 0, withEDNS ? 1 : 0] { bytes.append(short: count) }
        bytes += question.name.wire
        bytes.append(short: question.type)
        bytes.append(short: 1)
        if withEDNS {
            bytes.append(0)
            bytes.append(short: RecordType.opt)
            bytes.append(short: UInt16(Answer.largestPayload))
            bytes.append(long: question.options.contains(.signatures) ? 0x8000 : 0)
            bytes.append(short: 0)
        }
        return bytes
    }
}
