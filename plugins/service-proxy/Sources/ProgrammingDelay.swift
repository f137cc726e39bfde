import Glibc
import KnetCore
import Synchronization

/// The time from a change of a pod or Service, as its slices' annotation tells it in whole seconds, until the kernel follows:
/// kube-proxy's metric of that name
/// (https://kubernetes.io/docs/reference/instrumentation/metrics/).
final class ProgrammingDelay: Sendable {
    private struct State {
        /// When the changes were made that are on their way to the kernel.
        var pending: Set<Double> = []
        /// The newest of each slice that was seen.
        var seen: [ObjectKey: Double] = [:]
        var histogram = Histogram(bounds: ProgrammingDelay.bounds)
    }

    private let state = Mutex(State())
    /// Changes from before are not our delay.
    private let start = ProgrammingDelay.now

    /// kube-proxy's.
    private static let bounds =
        [0.25, 0.5] + (1..<60).map(Double.init) + stride(from: 60.0, through: 115, by: 5)
        + stride(from: 120.0, through: 300, by: 30)

    private static var now: Double {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    func note(_ slices: [EndpointSlice]) {
        for slice in slices {
            guard let time = slice.triggered, time >= start else { continue }
            state.withLock { state in
                if state.seen.updateValue(time, forKey: slice.key) != time { state.pending.insert(time) }
            }
        }
    }

    func observe() {
        state.withLock { state in
            let now = Self.now
            for time in state.pending { state.histogram.observe(max(0, now - time)) }
            state.pending = []
        }
    }

    func measure(_ page: inout MetricsText) {
        page.histogram(
            "kubeproxy_network_programming_duration_seconds",
            "Time from the change of a pod or Service until the kernel follows.", state.withLock { $0.histogram })
    }
}
