import KnetCore
import Synchronization

/// Counts and times of CNI requests.
final class CNIMetrics: Sendable {
    struct Figures: Sendable {
        var succeeded = 0
        var failed = 0
        var seconds = 0.0
    }

    private let figures = Mutex<[CNIRequest.Command: Figures]>([:])

    func record(_ command: CNIRequest.Command, seconds: Double, succeeded: Bool) {
        figures.withLock {
            $0[command, default: Figures()].seconds += seconds
            if succeeded { $0[command]?.succeeded += 1 } else { $0[command]?.failed += 1 }
        }
    }

    var snapshot: [CNIRequest.Command: Figures] { figures.withLock { $0 } }
}
