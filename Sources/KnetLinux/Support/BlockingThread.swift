import CMnl
import Dispatch
import Glibc
import Synchronization

/// An executor of its own for blocking calls, apart from the cooperative pool: an actor that names it as its
/// `unownedExecutor` may block.
public final class BlockingExecutor: SerialExecutor {
    private let queue: DispatchQueue

    public init(label: String) { queue = DispatchQueue(label: label) }

    public func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        queue.async { job.runSynchronously(on: self.asUnownedSerialExecutor()) }
    }

    public func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }
}

/// Threads that do one thing and exit, for what must not be done on a shared thread: `setns`, waiting for ever.
public enum DedicatedThread {
    /// Starts a thread and goes on.
    public static func start(name: String, _ body: sending @escaping () -> Void) throws(SystemError) {
        pthread_detach(try launch(ThreadBody(name: name, run: body)))
    }

    /// Runs `body` on a new thread and blocks the calling thread until it is done.
    public static func run<Result>(name: String, _ body: () throws -> Result) throws -> Result {
        nonisolated(unsafe) var outcome: Swift.Result<Result, any Error>?
        try withoutActuallyEscaping(body) { body in
            // Joined, not just awaited: the thread must have let go of `body` before this returns.
            _ = pthread_join(try launch(ThreadBody(name: name) { outcome = Swift.Result(catching: body) }), nil)
        }
        guard let outcome else { throw SystemError("thread \(name)", errno: ECANCELED) }
        return try outcome.get()
    }

    private static func launch(_ body: consuming ThreadBody) throws(SystemError) -> pthread_t {
        let box = Unmanaged.passRetained(body)
        var thread = pthread_t()
        let status = pthread_create(
            &thread, nil,
            { pointer in
                guard let pointer else { return nil }
                let body = Unmanaged<ThreadBody>.fromOpaque(pointer).takeRetainedValue()
                _ = pthread_setname_np(pthread_self(), body.name)
                body.run()
                return nil
            }, box.toOpaque())
        guard status == 0 else {
            box.release()
            throw SystemError("pthread_create", errno: status)
        }
        return thread
    }
}

/// Runs `body`, which may block, on a thread of Dispatch's pool, and suspends the caller meanwhile.
public func blocking<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
    try await withCheckedThrowingContinuation { continuation in
        DispatchQueue.global().async { continuation.resume(with: Swift.Result(catching: body)) }
    }
}

private final class ThreadBody {
    let name: String
    let run: () -> Void

    init(name: String, run: @escaping () -> Void) {
        self.name = name
        self.run = run
    }
}
