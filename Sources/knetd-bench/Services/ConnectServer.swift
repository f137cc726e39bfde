import CMnl
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization

/// Accepts and closes connections, and makes them.
final class ConnectServer: Sendable {
    static let address = IPAddress.v4(0x0AFF_0001)
    static let port: UInt16 = 8080

    /// Both ends are on one: else the scheduler's mood is what is measured.
    private static let processor: UInt32 = 0

    private let listener: SharedDescriptor
    private let isStopped = Atomic(false)

    /// In the namespace of the calling thread.
    init() throws {
        let socket = try Sockets.open(.v4, SOCK_STREAM, milliseconds: 200)
        Sockets.set(socket.number, Int(SOL_SOCKET), SO_REUSEADDR, 1)
        try Sockets.with(Self.address, port: Self.port) { pointer, length in
            _ = try syscall("bind") { bind(socket.number, pointer, length) }
        }
        try syscall("listen") { listen(socket.number, 1024) }
        listener = SharedDescriptor(socket)
        try DedicatedThread.start(name: "bench-accept") { [self] in
            _ = knet_pin_to_processor(Self.processor)
            while !isStopped.load(ordering: .relaxed) {
                _ = Descriptor.accepted(from: listener.number)
            }
        }
    }

    func stop() { isStopped.store(true, ordering: .relaxed) }

    /// - Returns: microseconds of each connect and close.
    func connect(_ address: IPAddress, _ port: UInt16, _ count: Int, _ namespace: NetworkNamespace) throws -> [Double] {
        try namespace.run {
            _ = knet_pin_to_processor(Self.processor)
            return try (0..<count).map { _ in
                let start = ContinuousClock.now
                try connectAndClose(address, port)
                return (ContinuousClock.now - start) / .microseconds(1)
            }
        }
    }
}

private func connectAndClose(_ address: IPAddress, _ port: UInt16) throws {
    let socket = try Sockets.open(.v4, SOCK_STREAM, milliseconds: 2000)
    try Sockets.connect(socket.number, to: address, port: port)
}

/// One result from another thread.
final class Completion: Sendable {
    private let signal = SharedSemaphore()
    private let reason = Mutex<String?>(nil)

    func finish(_ reason: String?) {
        self.reason.withLock { $0 = reason }
        signal.post()
    }

    func wait() -> String? {
        signal.wait()
        return reason.withLock { $0 }
    }
}

/// sem_t, which must not move.
private final class SharedSemaphore: @unchecked Sendable {
    private let pointer = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

    init() { sem_init(pointer, 0, 0) }

    deinit {
        sem_destroy(pointer)
        pointer.deallocate()
    }

    func post() { sem_post(pointer) }

    func wait() { while sem_wait(pointer) != 0 {} }
}

/// What this program has used of the processors.
enum ProcessUsage {
    static var milliseconds: Double {
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        let (user, system) = (usage.ru_utime, usage.ru_stime)
        let microseconds = Double(user.tv_usec + system.tv_usec)
        return Double(user.tv_sec + system.tv_sec) * 1000 + microseconds / 1000
    }
}
