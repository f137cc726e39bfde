public import Logging
import Synchronization

/// What a reconciler did and what troubles it, for status and metrics.
public struct ReconcilerReport: Sendable {
    public var passes = 0
    public var entriesAdded = 0
    public var entriesRemoved = 0
    public var failures = 0
    public var resyncs = 0
    /// Entries that are desired now.
    public var entries = 0
    /// Seconds that the last pass took.
    public var lastPassSeconds = 0.0
    /// Whether all of a usable state was brought to the kernel at least once, whatever the kernel refused of it.
    public var isInForce = false
    /// What is wrong now, by object.
    public var faults: [ObjectKey: String] = [:]
    /// What is wrong now with no object to blame.
    public var otherFaults: [String] = []
}

/// A reconciler without its plugin's type.
public protocol ReconcilerHandle: Sendable {
    var name: String { get }
    var report: ReconcilerReport { get }

    /// Follows the state until the task is cancelled.
    func run() async

    /// Asks for a comparison with the kernel, because something in it changed under us.
    func kernelChanged()

    /// Returns once the entries for `key` are in force as of the state's `version`.
    /// - Throws: `NotInForce` where the kernel refused one of them.
    func inForce(_ key: ObjectKey, version: UInt64) async throws
}

/// Entries of an object that could not be brought into force.
public struct NotInForce: Error, CustomStringConvertible {
    public let key: ObjectKey
    public let reason: String
    public var description: String { "\(key): \(reason)" }
}

/// The loop that keeps the kernel as the state wants it, for one plugin. It wakes for changes of the state, for events
/// of the kernel, for a periodic full comparison and for retries; it never gives up.
public actor Reconciler<P: Plugin>: ReconcilerHandle {
    private struct Wake {
        var resync = false
    }

    private struct Waiter {
        let key: ObjectKey
        let version: UInt64
        let continuation: CheckedContinuation<Void, any Error>
    }

    private var pass: ReconcilePass<P>
    private let store: StateStore
    private let kinds: Set<ObjectKey.Kind>
    private let logger: Logger
    private let resyncInterval: Duration
    private let executor: any SerialExecutor
    private let wakes: AsyncStream<Void>
    private let waker: AsyncStream<Void>.Continuation
    private let wake = Mutex(Wake())
    private let shared = Mutex(ReconcilerReport())
    private var version: UInt64 = 0
    private var waiters: [Waiter] = []
    private var retryDelay = firstRetry
    private var isRetrying = false
    private var isStopped = false
    /// What was logged of it: the same is not logged at each retry.
    private var lastRefusal: String?

    private static var firstRetry: Duration { .milliseconds(50) }
    private static var lastRetry: Duration { .seconds(30) }

    public nonisolated let name: String
    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    /// - Parameters:
    ///   - executor: where the plugin's blocking kernel calls run; not the cooperative pool.
    ///   - resyncInterval: time between full comparisons with the kernel.
    public init(
        plugin: P, store: StateStore, executor: any SerialExecutor, resyncInterval: Duration, logger: Logger
    ) {
        pass = ReconcilePass(plugin: plugin)
        name = plugin.name
        kinds = plugin.needs.kinds
        self.store = store
        self.executor = executor
        self.resyncInterval = resyncInterval
        self.logger = logger
        (wakes, waker) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    public nonisolated var report: ReconcilerReport { shared.withLock { $0 } }

    public nonisolated func kernelChanged() {
        wake.withLock { $0.resync = true }
        waker.yield()
    }

    public func run() async {
        let subscription = store.follow { [waker] in waker.yield() }
        kernelChanged()
        await withDiscardingTaskGroup { group in
            group.addTask { [self, resyncInterval] in
                while (try? await Task.sleep(for: resyncInterval)) != nil { kernelChanged() }
            }
            for await _ in wakes {
                turn(subscription)
                if let delay = nextRetry() { group.addTask { [self] in await retry(after: delay) } }
            }
            group.cancelAll()
        }
        isStopped = true
        for waiter in waiters {
            waiter.continuation.resume(throwing: NotInForce(key: waiter.key, reason: Self.stopping))
        }
        waiters = []
    }

    public func inForce(_ key: ObjectKey, version: UInt64) async throws {
        try await withCheckedThrowingContinuation { continuation in
            // All is decided in here: a task with an executor of its own may have suspended on the way in.
            let waiter = Waiter(key: key, version: version, continuation: continuation)
            if isStopped {
                continuation.resume(throwing: NotInForce(key: key, reason: Self.stopping))
            } else if self.version >= version {
                answer(waiter, faults: pass.faults)
            } else {
                waiters.append(waiter)
            }
        }
    }

    private static var stopping: String { "knetd stops" }

    // MARK: Retries

    /// The time to the next retry, where one is needed and none is on its way; it doubles from one to the next.
    private func nextRetry() -> Duration? {
        guard pass.needsRetry else {
            retryDelay = Self.firstRetry
            return nil
        }
        guard !isRetrying else { return nil }
        isRetrying = true
        defer { retryDelay = min(retryDelay * 2, Self.lastRetry) }
        return retryDelay
    }

    private func retry(after delay: Duration) async {
        try? await Task.sleep(for: delay)
        isRetrying = false
        waker.yield()
    }

    // MARK: Turns

    /// Reads, decides and applies without a suspension between.
    private func turn(_ subscription: StateStore.Subscription) {
        let resync = wake.withLock { wake in
            defer { wake.resync = false }
            return wake.resync
        }
        let start = ContinuousClock.now
        let change = subscription.take()
        let outcome = pass.run(change, resync: resync)
        let elapsed = ContinuousClock.now - start
        let faults = pass.faults
        if pass.readFault == nil { version = change.state.version }
        report(outcome, faults: faults, elapsed: elapsed, resync: resync, state: change.state)
        release(asOf: change.state.version, faults: faults)
    }

    /// Tells those whose version has come; where the kernel could not be read, that nothing is in force.
    private func release(asOf now: UInt64, faults: [ObjectKey: String]) {
        waiters.removeAll { waiter in
            guard waiter.version <= now else { return false }
            answer(waiter, faults: faults)
            return true
        }
    }

    private func answer(_ waiter: Waiter, faults: [ObjectKey: String]) {
        if let reason = pass.readFault ?? faults[waiter.key] {
            waiter.continuation.resume(throwing: NotInForce(key: waiter.key, reason: reason))
        } else {
            waiter.continuation.resume()
        }
    }

    private func report(
        _ outcome: ReconcilePass<P>.Outcome, faults: [ObjectKey: String], elapsed: Duration, resync: Bool,
        state: ClusterState
    ) {
        let seconds = elapsed / .seconds(1)
        shared.withLock {
            $0.passes += 1
            $0.entriesAdded += outcome.added
            $0.entriesRemoved += outcome.removed
            $0.failures += outcome.failed
            $0.resyncs += resync ? 1 : 0
            $0.entries = pass.tracker.desiredCount
            $0.lastPassSeconds = seconds
            $0.isInForce = $0.isInForce || (state.isUsable(kinds) && state.local != nil && pass.readFault == nil)
            $0.faults = faults
            $0.otherFaults = pass.otherFaults
        }
        if outcome.added + outcome.removed > 0 {
            logger.info(
                "kernel changed",
                metadata: [
                    "plugin": "\(name)", "op": "\(resync ? "resync" : "apply")", "added": "\(outcome.added)",
                    "removed": "\(outcome.removed)", "ms": "\((seconds * 100_000).rounded() / 100)",
                ])
        }
        let refusal = outcome.failed > 0 ? pass.otherFaults.first ?? faults.values.min() ?? "" : nil
        if let refusal, refusal != lastRefusal {
            logger.warning(
                "kernel refused a change; trying again",
                metadata: ["plugin": "\(name)", "failed": "\(outcome.failed)", "reason": "\(refusal)"])
        }
        lastRefusal = refusal ?? (pass.needsRetry ? lastRefusal : nil)
    }
}
