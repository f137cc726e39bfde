import Logging
import Synchronization

/// What those who follow the server share while it is away: the first who reaches it again tells the others, and one reason
/// that all have is logged once.
final class Recovery: Sendable {
    private struct Shared {
        var waiting: [Int: AsyncStream<Void>.Continuation] = [:]
        var next = 0
        var reason: String?
    }

    private let logger: Logger
    private let shared = Mutex(Shared())

    init(logger: Logger) { self.logger = logger }

    /// Waits until the server is reached by somebody, and no longer than `time`.
    func wait(atMost time: Duration) async {
        let (stream, continuation) = AsyncStream.makeStream(of: Void.self)
        let id = shared.withLock { shared in
            shared.next += 1
            shared.waiting[shared.next] = continuation
            return shared.next
        }
        let timer = Task {
            try? await Task.sleep(for: time)
            continuation.finish()
        }
        for await _ in stream { break }
        timer.cancel()
        shared.withLock { _ = $0.waiting.removeValue(forKey: id) }
    }

    func failed(_ reason: String, metadata: Logger.Metadata) {
        let isNew = shared.withLock { shared in
            defer { shared.reason = reason }
            return shared.reason != reason
        }
        var metadata = metadata
        metadata["reason"] = "\(reason)"
        logger.log(
            level: isNew ? .warning : .debug, "the API server cannot be followed; trying again", metadata: metadata)
    }

    func succeeded() {
        let (waiting, wasAway) = shared.withLock { shared in
            defer { shared.reason = nil }
            return (Array(shared.waiting.values), shared.reason != nil)
        }
        for continuation in waiting { continuation.yield() }
        if wasAway { logger.notice("the API server is followed again", metadata: ["op": "watch"]) }
    }
}
