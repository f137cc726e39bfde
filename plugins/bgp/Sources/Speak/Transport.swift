import CMnl
import Glibc
import KnetCore
import KnetLinux
import NIOCore
import NIOPosix

/// How a peer is reached.
struct Transport: Hashable, Sendable {
    var port: Int
    /// At most 80 bytes.
    var password: String?
    /// Hops that it may be away, 1 for a neighbour; 0: any (RFC 5082).
    var hops = 0
    /// This node's address on connections that it opens; `nil` leaves it to the kernel.
    var source: IPAddress?
}

/// Options of TCP sockets that NIO has no names for.
enum PeerSocket {
    /// Whose segments count and with which TTL, before the first one.
    static func prepare(_ channel: any Channel, for peer: IPAddress, _ transport: Transport) -> EventLoopFuture<Void> {
        guard let socket = channel as? any SocketOptionProvider else {
            return channel.eventLoop.makeSucceededVoidFuture()
        }
        var steps: [EventLoopFuture<Void>] = []
        if let password = transport.password {
            steps.append(sign(socket, CIDR(host: peer), password))
        }
        if transport.hops > 0 {
            // <linux/in.h>: IP_TTL, IP_MINTTL; <linux/in6.h>: IPV6_UNICAST_HOPS, IPV6_MINHOPCOUNT.
            let (level, own, least) = peer.family == .v4 ? (IPPROTO_IP, 2, 21) : (IPPROTO_IPV6, 16, 73)
            for (name, value) in [(own, 255), (least, 256 - transport.hops)] {
                steps.append(
                    socket.unsafeSetSocketOption(
                        level: .init(rawValue: CInt(level)), name: .init(rawValue: CInt(name)), value: CInt(value)))
            }
        }
        return EventLoopFuture.andAllSucceed(steps, on: channel.eventLoop)
    }

    /// Segments to and from there bear an MD5 signature (RFC 2385).
    /// - Parameter password: "" for none any more.
    static func sign(
        _ socket: any SocketOptionProvider, _ peers: CIDR, _ password: String
    ) -> EventLoopFuture<Void> {
        var option = knet_tcp_md5()
        peers.base.withSocketName(port: 0) { name, length in
            withUnsafeMutableBytes(of: &option.address) {
                $0.copyMemory(from: UnsafeRawBufferPointer(start: name, count: Int(length)))
            }
        }
        option.flags = UInt8(KNET_TCP_MD5_HAS_PREFIX)
        option.prefix_length = UInt8(peers.prefixLength)
        let key = Array(password.utf8.prefix(Int(KNET_TCP_MD5_KEY)))
        option.key_length = UInt16(key.count)
        withUnsafeMutableBytes(of: &option.key) { $0.copyBytes(from: key) }
        return socket.unsafeSetSocketOption(
            level: .init(rawValue: CInt(IPPROTO_TCP)), name: .init(rawValue: CInt(KNET_TCP_MD5SIG_EXT)), value: option)
    }
}

/// Reads messages off a connection.
final class PeerHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let id: ConnectionID
    private let tell: (SessionEvent) -> Void
    private var frames = MessageFrames()
    private var isOver = false

    init(_ id: ConnectionID, _ tell: @escaping (SessionEvent) -> Void) {
        self.id = id
        self.tell = tell
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isOver else { return }
        frames.append(unwrapInboundIn(data).readableBytesView)
        do throws(Notification) {
            while let frame = try frames.next() { tell(.received(frame, id)) }
        } catch {
            isOver = true
            tell(.malformed(error, id))
        }
    }

    func channelInactive(context: ChannelHandlerContext) { tell(.closed(id)) }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}

extension SocketAddress {
    var address: IPAddress? {
        withSockAddr { name, length in
            var storage = sockaddr_storage()
            withUnsafeMutableBytes(of: &storage) {
                $0.copyMemory(from: UnsafeRawBufferPointer(start: name, count: min(length, $0.count)))
            }
            return withUnsafePointer(to: &storage) { IPAddress(socketName: $0) }
        }
    }
}
