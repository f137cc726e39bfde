import CMnl
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization

/// Single packets from a namespace, each sent once: what is lost is not made good by sending it again.
enum PolicyProbe {
    /// Less than the second after which the kernel repeats a connection's first packet.
    static let patience = 700

    /// Whether a connection comes about.
    static func connects(
        from namespace: NetworkNamespace, to address: IPAddress, port: UInt16 = 80, milliseconds: Int = patience
    ) throws -> Bool {
        let stream = try namespace.run { try PolicySocket.open(address.family, SOCK_STREAM, port: 0) }
        let isOnItsWay = address.withSocketName(port: port) { name, length in
            connect(stream.number, name, length) == 0 || errno == EINPROGRESS
        }
        guard isOnItsWay, isReady(stream, POLLOUT, milliseconds) else { return false }
        var error: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        return getsockopt(stream.number, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0
    }

    /// Whether a datagram is answered.
    static func isAnswered(
        from namespace: NetworkNamespace, to address: IPAddress, port: UInt16 = 80, milliseconds: Int = patience
    ) throws -> Bool {
        let datagram = try namespace.run { try PolicySocket.open(address.family, SOCK_DGRAM, port: 0) }
        send(datagram, to: address, port: port)
        guard isReady(datagram, POLLIN, milliseconds) else { return false }
        var byte: UInt8 = 0
        return recv(datagram.number, &byte, 1, 0) == 1
    }

    /// Sends and does not wait: a datagram, or the first packet of a connection.
    static func knock(
        from namespace: NetworkNamespace, to address: IPAddress, port: UInt16, _ transport: PolicyFlow.Transport
    ) throws {
        let type = transport == .udp ? SOCK_DGRAM : SOCK_STREAM
        let knocking = try namespace.run { try PolicySocket.open(address.family, type, port: 0) }
        if transport == .udp {
            send(knocking, to: address, port: port)
        } else {
            address.withSocketName(port: port) { name, length in _ = connect(knocking.number, name, length) }
        }
    }

    /// - Returns: whether it left the socket.
    @discardableResult
    static func send(_ datagram: SharedDescriptor, to address: IPAddress, port: UInt16) -> Bool {
        var byte: UInt8 = 1
        return address.withSocketName(port: port) { name, length in
            sendto(datagram.number, &byte, 1, 0, name, length) == 1
        }
    }

    private static func isReady(_ descriptor: SharedDescriptor, _ events: Int32, _ milliseconds: Int) -> Bool {
        var polled = pollfd(fd: descriptor.number, events: Int16(events), revents: 0)
        return poll(&polled, 1, Int32(milliseconds)) == 1
    }
}

/// New connections and datagrams at a steady rate, from one pod to another, and what became of them.
final class PolicyVisitor: Sendable {
    private let failed = Mutex<[String]>([])
    private let visits = Atomic(0)
    private let isStopped = Atomic(false)
    private let isOver = Atomic(false)

    init(from source: String, to destination: String, _ stage: PolicyStage) throws {
        let namespace = try stage.playground.namespace(source)
        let targets = IPFamily.allCases.compactMap { stage.world.address(of: destination, $0) }
        try DedicatedThread.start(name: "policy-visitor") { [self] in
            while !isStopped.load(ordering: .relaxed) {
                for target in targets { visit(target, from: namespace) }
                visits.add(1, ordering: .relaxed)
                usleep(5_000)
            }
            isOver.store(true, ordering: .releasing)
        }
    }

    /// How often all was tried.
    var count: Int { visits.load(ordering: .relaxed) }
    var failures: [String] { failed.withLock { $0 } }

    func stop() {
        isStopped.store(true, ordering: .relaxed)
        while !isOver.load(ordering: .acquiring) { usleep(5_000) }
    }

    private func visit(_ target: IPAddress, from namespace: NetworkNamespace) {
        do {
            let isConnected = try PolicyProbe.connects(from: namespace, to: target)
            let isAnswered = try PolicyProbe.isAnswered(from: namespace, to: target)
            if !isConnected { failed.withLock { $0.append("TCP \(target)") } }
            if !isAnswered { failed.withLock { $0.append("UDP \(target)") } }
        } catch {
            failed.withLock { $0.append("\(target): \(error)") }
        }
    }
}
