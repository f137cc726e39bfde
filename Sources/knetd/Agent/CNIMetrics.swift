import FoundationEssentials
import KnetCore
import Synchronization

/// Counts and times of CNI requests, and the last that failed.
final class CNIMetrics: Sendable {
    struct Figures: Sendable {
        var succeeded = 0
        var failed = 0
        var seconds = 0.0
    }

    /// A request that was answered with an error.
    struct Failure: Codable, Sendable {
        /// ISO 8601, UTC.
        let time: String
        let command: String
        let container: String
        let reason: String
    }

    private struct Contents {
        var figures: [CNIRequest.Command: Figures] = [:]
        var failures: [Failure] = []
    }

    private static let failuresKept = 10

    private let contents = Mutex(Contents())

    func record(_ request: CNIRequest, seconds: Double, error: CNIError?) {
        contents.withLock {
            $0.figures[request.command, default: Figures()].seconds += seconds
            guard let error else {
                $0.figures[request.command]?.succeeded += 1
                return
            }
            $0.figures[request.command]?.failed += 1
            $0.failures.append(
                Failure(
                    time: Date.now.formatted(.iso8601), command: request.command.rawValue, container: "\(request.id)",
                    reason: "\(error)"))
            if $0.failures.count > Self.failuresKept { $0.failures.removeFirst() }
        }
    }

    var figures: [CNIRequest.Command: Figures] { contents.withLock { $0.figures } }

    /// Oldest first.
    var failures: [Failure] { contents.withLock { $0.failures } }
}
