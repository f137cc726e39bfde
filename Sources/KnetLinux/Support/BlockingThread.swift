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

/// Runs an asynchronous `body` on the calling thread and blocks that until it is done. What `body` calls may block too: it
/// has the thread for itself, and no thread of a pool waits for it.
public func runOnThisThread<Result: Sendable>(_ body: @escaping @Sendable () async -> Result) -> Result {
    let executor = ThreadExecutor()
    nonisolated(unsafe) var result: Result?
    Task(executorPreference: executor) {
        result = await body()
        executor.finish()
    }
    executor.drain()
    // `finish` comes after the result.
    guard let result else { preconditionFailure("the thread's executor ended before its task") }
    return result
}

/// Runs `body`, which may block, on a thread of its own, and suspends the caller meanwhile.
public func onOwnThread<Result: Sendable>(_ name: String, _ body: @escaping @Sendable () async -> Result) async throws
    -> Result
{
    try await withCheckedThrowingContinuation { continuation in
        do {
            try DedicatedThread.start(name: name) { continuation.resume(returning: runOnThisThread(body)) }
        } catch {
            continuation.resume(throwing: error)
        }
    }
}

/// The thread that drains it, as the executor of one task.
private final class ThreadExecutor: TaskExecutor {
    private struct Queue {
        var jobs: [UnownedJob] = []
        var isFinished = false
    }

    private let queue = Mutex(Queue())
    private let wakes = DispatchSemaphore(value: 0)

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        let isFinished = queue.withLock { queue in
            if !queue.isFinished { queue.jobs.append(job) }
            return queue.isFinished
        }
        guard isFinished else {
            wakes.signal()
            return
        }
        // An actor that the task used may have been left to this executor with the jobs of other tasks.
        DispatchQueue.global().async { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }

    func finish() {
        queue.withLock { $0.isFinished = true }
        wakes.signal()
    }

    func drain() {
        while true {
            wakes.wait()
            let (jobs, isFinished) = queue.withLock { queue in
                defer { queue.jobs = [] }
                return (queue.jobs, queue.isFinished)
            }
            for job in jobs { job.runSynchronously(on: asUnownedTaskExecutor()) }
            if isFinished { return }
        }
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
