import CMnl
import Dispatch
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization

/// Two threads of this process, one in each pod, that talk over TCP. Sockets are blocking, with time limits; nothing is
/// allocated for a message.
struct Load {
    let path: Path
    let placement: Placement

    /// On which processors the ends run; `nil` lets the scheduler choose.
    struct Placement {
        let server: UInt32?
        let client: UInt32?

        static let free = Placement(server: nil, client: nil)
        /// Both on the last: the first has most of the machine's interrupts.
        static let together = Placement(server: last, client: last)
        /// Each on its own, as far as there are two.
        static let apart = Placement(server: last, client: 0)

        private static var last: UInt32 { UInt32(max(sysconf(Int32(_SC_NPROCESSORS_ONLN)) - 1, 0)) }
    }

    /// Milliseconds that a single read or write may take.
    static let patience = 5000
    static let port: UInt16 = 5201

    /// Runs both ends.
    /// - Parameters:
    ///   - server: given the listening socket, on a thread in the server's pod.
    ///   - client: on a thread in the client's pod.
    /// - Returns: what the client measured.
    func run<Result>(
        server: @escaping @Sendable (_ listener: Int32) throws -> Void, client: (Self) throws -> Result
    ) throws -> Result {
        let listener = try path.server.run(listen)
        let fault = Mutexed<(any Error)?>(nil)
        let done = DispatchSemaphore(value: 0)
        let processor = placement.server
        try DedicatedThread.start(name: "bench-server") {
            do {
                try Self.pin(processor)
                try server(listener.number)
            } catch {
                fault.set(error)
                // The client learns at once that nobody answers.
                shutdown(listener.number, Int32(SHUT_RDWR))
            }
            done.signal()
        }
        defer {
            // The server is waiting for the next connection, or has ended.
            shutdown(listener.number, Int32(SHUT_RDWR))
            done.wait()
        }
        do {
            return try path.client.run {
                try Self.pin(placement.client)
                return try client(self)
            }
        } catch {
            throw fault.get() ?? error
        }
    }

    /// Opens a connection to the server from the calling thread, which is in the client's pod.
    func connect() throws -> Descriptor {
        let socket = try Sockets.open(path.address.family, SOCK_STREAM, milliseconds: Self.patience)
        Self.sendAtOnce(socket.number)
        let asked = path.service ?? Endpoint(address: path.address, port: Int(path.port))
        try Sockets.connect(socket.number, to: asked.address, port: UInt16(asked.port))
        return socket
    }

    /// - Returns: `nil` when the listener was shut down.
    static func accept(_ listener: Int32) throws -> Descriptor? {
        while true {
            if let connection = Descriptor.accepted(from: listener) {
                sendAtOnce(connection.number)
                Sockets.limit(connection.number, milliseconds: patience)
                return connection
            }
            if errno == EINVAL { return nil }
            guard errno == EINTR else { throw SystemError("accept") }
        }
    }

    private func listen() throws -> SharedDescriptor {
        let socket = try Sockets.open(path.address.family, SOCK_STREAM, milliseconds: Self.patience)
        Sockets.set(socket.number, Int(SOL_SOCKET), SO_REUSEADDR, 1)
        try Sockets.with(path.address, port: path.port) { pointer, length in
            _ = try syscall("bind") { bind(socket.number, pointer, length) }
        }
        try syscall("listen") { Glibc.listen(socket.number, 128) }
        return SharedDescriptor(socket)
    }

    /// No waiting for more bytes before a small message is sent (RFC 896's algorithm off).
    private static func sendAtOnce(_ socket: Int32) { Sockets.set(socket, IPPROTO_TCP, TCP_NODELAY, 1) }

    private static func pin(_ processor: UInt32?) throws {
        if let processor { try syscall("sched_setaffinity") { knet_pin_to_processor(processor) } }
    }
}

/// A value that two threads share.
final class Mutexed<Value: Sendable>: Sendable {
    private let contents: Mutex<Value>
    init(_ value: Value) { contents = Mutex(value) }
    func set(_ value: Value) { contents.withLock { $0 = value } }
    func get() -> Value { contents.withLock { $0 } }
}

/// Nanoseconds of a clock that only goes forward.
func now() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}
