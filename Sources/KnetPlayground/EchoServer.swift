import Glibc
import KnetCore
public import KnetLinux
import Synchronization

/// Answers inside one namespace, in both families: TCP with the sender's address and its own, a line's end and all that was sent,
/// once the sender is done; UDP with what came; TCP on the next port with what came, at once and as long as it comes.
public final class EchoServer: Sendable {
    public static let port: UInt16 = 7007
    public static let longPort = port + 1

    private let stream: SharedDescriptor
    private let longStream: SharedDescriptor
    private let datagram: SharedDescriptor
    private let isStopped = Atomic(false)

    /// Milliseconds after which a server looks whether it should stop.
    private static let patience = 200

    public init(in namespace: NetworkNamespace) throws {
        let sockets = try namespace.run { () throws -> (SharedDescriptor, SharedDescriptor, SharedDescriptor) in
            (
                SharedDescriptor(try Self.bound(SOCK_STREAM)),
                SharedDescriptor(try Self.bound(SOCK_STREAM, port: Self.longPort)),
                SharedDescriptor(try Self.bound(SOCK_DGRAM))
            )
        }
        (stream, longStream, datagram) = sockets
        for socket in [stream, longStream] { try syscall("listen") { listen(socket.number, 64) } }
        try DedicatedThread.start(name: "echo-long") { [self] in serveLongStreams() }
        try DedicatedThread.start(name: "echo-tcp") { [self] in serveStreams() }
        try DedicatedThread.start(name: "echo-udp") { [self] in serveDatagrams() }
    }

    public func stop() { isStopped.store(true, ordering: .relaxed) }

    private static func bound(_ type: __socket_type, port: UInt16 = port) throws -> Descriptor {
        let descriptor = try Sockets.open(.v6, type, milliseconds: patience)
        Sockets.set(descriptor.number, (IPPROTO_IPV6), IPV6_V6ONLY, 0)
        Sockets.set(descriptor.number, Int(SOL_SOCKET), SO_REUSEADDR, 1)
        // Full-size answers must not be refused for a path MTU learnt on the way here.
        try Sockets.with(.v6(0), port: port) { pointer, length in
            _ = try syscall("bind") { bind(descriptor.number, pointer, length) }
        }
        return descriptor
    }

    private func serveStreams() {
        while !isStopped.load(ordering: .relaxed) {
            guard let connection = Descriptor.accepted(from: stream.number) else { continue }
            Sockets.limit(connection.number, milliseconds: 5000)
            guard let received = try? Sockets.receiveAll(connection.number) else { continue }
            let names = [getpeername, getsockname].map { name in
                var storage = sockaddr_storage()
                var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
                withUnsafeMutablePointer(to: &storage) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { _ = name(connection.number, $0, &length) }
                }
                return Sockets.address(storage)?.description ?? "unknown"
            }
            let greeting = Array("\(names[0]) \(names[1])\n".utf8)
            try? Sockets.sendAll(connection.number, greeting + received)
        }
    }

    private func serveLongStreams() {
        while !isStopped.load(ordering: .relaxed) {
            guard let accepted = Descriptor.accepted(from: longStream.number) else { continue }
            let connection = SharedDescriptor(accepted)
            try? DedicatedThread.start(name: "echo-stream") { [self] in
                Sockets.limit(connection.number, milliseconds: Self.patience)
                var buffer = [UInt8](repeating: 0, count: 1 << 16)
                while !isStopped.load(ordering: .relaxed) {
                    let count = recv(connection.number, &buffer, buffer.count, 0)
                    if count == 0 || (count < 0 && errno != EAGAIN) { return }
                    if count > 0, (try? Sockets.sendAll(connection.number, Array(buffer[..<count]))) == nil { return }
                }
            }
        }
    }

    private func serveDatagrams() {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while !isStopped.load(ordering: .relaxed) {
            var peer = sockaddr_storage()
            var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
            withUnsafeMutablePointer(to: &peer) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { peer in
                    let count = recvfrom(datagram.number, &buffer, buffer.count, 0, peer, &length)
                    if count >= 0 { sendto(datagram.number, buffer, count, 0, peer, length) }
                }
            }
        }
    }
}
