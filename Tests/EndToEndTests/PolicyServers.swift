import CMnl
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization

/// Sockets that never wait, opened in the calling thread's namespace.
enum PolicySocket {
    /// - Parameters:
    ///   - port: the socket's own, at all addresses.
    ///   - isForBoth: whether a socket of IPv6 is one of IPv4 too.
    static func open(
        _ family: IPFamily, _ type: __socket_type, port: UInt16, isForBoth: Bool = false
    ) throws -> SharedDescriptor {
        let flags = Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        let descriptor = SharedDescriptor(
            Descriptor(
                owning: try syscall("socket") {
                    socket(Int32(family.socketFamily), Int32(type.rawValue) | flags, 0)
                }))
        Sockets.set(descriptor.number, Int(SOL_SOCKET), SO_REUSEADDR, 1)
        if family == .v6 { Sockets.set(descriptor.number, (IPPROTO_IPV6), IPV6_V6ONLY, isForBoth ? 0 : 1) }
        let anyAddress: IPAddress = family == .v4 ? .v4(0) : .v6(0)
        try anyAddress.withSocketName(port: port) { name, length in
            _ = try syscall("bind to port \(port)") { bind(descriptor.number, name, length) }
        }
        return descriptor
    }
}

/// Answers in every pod, on one thread: TCP by taking the connection, UDP with what came.
final class PolicyServers: Sendable {
    private let streams: [SharedDescriptor]
    private let datagrams: [SharedDescriptor]
    private let isStopped = Atomic(false)

    /// Milliseconds after which the thread looks whether it should stop.
    private static let patience: Int32 = 100

    init(in namespaces: [NetworkNamespace]) throws {
        var (streams, datagrams): ([SharedDescriptor], [SharedDescriptor]) = ([], [])
        for namespace in namespaces {
            for port in PolicyFlow.ports.map({ UInt16($0) }) {
                streams.append(
                    try namespace.run {
                        try PolicySocket.open(.v6, SOCK_STREAM, port: port, isForBoth: true)
                    })
                datagrams.append(
                    try namespace.run {
                        try PolicySocket.open(.v6, SOCK_DGRAM, port: port, isForBoth: true)
                    })
            }
        }
        for stream in streams { try syscall("listen") { listen(stream.number, 512) } }
        (self.streams, self.datagrams) = (streams, datagrams)
        try DedicatedThread.start(name: "policy-servers") { [self] in serve() }
    }

    func stop() { isStopped.store(true, ordering: .relaxed) }

    private func serve() {
        var polled = (streams + datagrams).map { pollfd(fd: $0.number, events: Int16(POLLIN), revents: 0) }
        while !isStopped.load(ordering: .relaxed) {
            guard poll(&polled, nfds_t(polled.count), Self.patience) > 0 else { continue }
            for (index, entry) in polled.enumerated() where entry.revents != 0 {
                if index < streams.count { Self.take(entry.fd) } else { Self.echo(entry.fd) }
            }
        }
    }

    /// That the connection came about is all that is asked.
    private static func take(_ listener: Int32) {
        while Descriptor.accepted(from: listener) != nil {}
    }

    private static func echo(_ descriptor: Int32) {
        var bytes = [UInt8](repeating: 0, count: 64)
        while true {
            var peer = sockaddr_storage()
            var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let isAnswered = withUnsafeMutablePointer(to: &peer) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { peer -> Bool in
                    let count = recvfrom(descriptor, &bytes, bytes.count, 0, peer, &length)
                    if count >= 0 { sendto(descriptor, bytes, count, 0, peer, length) }
                    return count >= 0
                }
            }
            guard isAnswered else { return }
        }
    }
}
