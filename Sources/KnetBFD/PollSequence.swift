/// The poll sequence by which a neighbour confirms new intervals (RFC 5880 §6.5).
///
/// An F that arrives may answer a P from before the latest change. So a change while a sequence runs leads to a second
/// one, and that starts only after a packet without F (§6.8.3, the third of its choices).
struct PollSequence: Hashable, Sendable {
    private enum Phase { case idle, running, finished }

    private var phase = Phase.idle
    private var isWanted = false

    /// Whether packets carry P.
    var isRunning: Bool { phase == .running }

    /// Intervals changed.
    mutating func begin() {
        if phase == .idle { phase = .running } else { isWanted = true }
    }

    /// Takes note of a packet's F; `true` where the neighbour has now seen the latest intervals.
    mutating func hears(final: Bool) -> Bool {
        switch phase {
        case .running where final:
            phase = .finished
            return !isWanted
        case .finished where !final:
            phase = isWanted ? .running : .idle
            isWanted = false
            return false
        default:
            return false
        }
    }
}
