import KnetCore
import KnetDataplane
import KnetLinux
import Logging
import Synchronization

/// Takes the links of detached pods away after the runtime has its answer: the kernel needs tens of milliseconds for it, for
/// one as for many. Their addresses are free when they are gone.
actor LinkRemover {
    private let allocations: AllocationStore
    private let pool: NetlinkPool
    private let logger: Logger
    private let executor = BlockingExecutor(label: "knetd.links")
    private let pending = Mutex<[AttachmentID]>([])

    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    init(allocations: AllocationStore, pool: NetlinkPool, logger: Logger) {
        self.allocations = allocations
        self.pool = pool
        self.logger = logger
    }

    /// Begins to remove the attachment's links and returns at once.
    nonisolated func begin(_ id: AttachmentID) {
        pending.withLock { $0.append(id) }
        Task { await removePending() }
    }

    /// Removes the attachment's links, or tries to, and returns when that is done.
    nonisolated func finish(_ id: AttachmentID) async {
        pending.withLock { $0.append(id) }
        await removePending()
    }

    /// Returns when all that was begun is done.
    func removePending() {
        let ids = pending.withLock { pending in
            defer { pending = [] }
            return pending
        }
        guard !ids.isEmpty else { return }
        do {
            try PodLink.remove(ids, pool: pool)
            try allocations.release(ids)
        } catch {
            // The next sweep finds them in the store.
            logger.warning("links are left", metadata: ["op": "DEL", "count": "\(ids.count)", "reason": "\(error)"])
        }
    }
}
