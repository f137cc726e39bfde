import Synchronization

/// Lets so many requests through in a second, and a few more at once.
final class RequestPace: Sendable {
    private let interval: Duration
    private let burst: Int
    /// When the last request of those that were let through would have had its turn.
    private let last: Mutex<ContinuousClock.Instant>

    init(perSecond: Int, burst: Int) {
        interval = .seconds(1) / perSecond
        self.burst = burst
        last = Mutex(.now - interval * burst)
    }

    /// Waits for its turn.
    func turn() async throws {
        let turn = last.withLock { last in
            last = max(last + interval, .now - interval * burst)
            return last
        }
        if turn > .now { try await Task.sleep(until: turn) }
    }
}

/// How long to wait before the next attempt: twice as long after every failure, never the same for all nodes.
struct Backoff {
    private let range: ClosedRange<Duration>
    private var next: Duration

    init(_ range: ClosedRange<Duration>) {
        self.range = range
        next = range.lowerBound
    }

    mutating func succeeded() { next = range.lowerBound }

    /// - Parameter atLeast: what the server asked for.
    mutating func failed(atLeast: Duration = .zero) -> Duration {
        defer { next = min(next * 2, range.upperBound) }
        return max(next * Double.random(in: 0.5...1), atLeast * Double.random(in: 1...1.2))
    }
}
