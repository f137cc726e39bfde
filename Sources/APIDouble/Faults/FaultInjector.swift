import Synchronization
import TestSupport

/// Decides by the configured probabilities and one seeded generator.
final class FaultInjector: Sendable {
    private struct State {
        var faults = Faults.none
        var generator = SeededGenerator(seed: Faults.none.seed)
        /// Watches that were made to say nothing more.
        var silenced = 0
    }
    private let state = Mutex(State())

    var faults: Faults {
        get { state.withLock { $0.faults } }
        set { state.withLock { $0 = State(faults: newValue, generator: SeededGenerator(seed: newValue.seed)) } }
    }

    func rolls(_ probability: KeyPath<Faults, Double>) -> Bool {
        state.withLock { Self.rolls($0.faults[keyPath: probability], &$0.generator) }
    }

    func watchFault() -> WatchFault? {
        state.withLock { state in
            let fault = WatchFault.allCases.first {
                Self.rolls(state.faults[keyPath: $0.probability], &state.generator)
            }
            if fault == .silence { state.silenced += 1 }
            return fault
        }
    }

    var silenced: Int { state.withLock { $0.silenced } }

    func requestFault() -> RequestFault? {
        state.withLock { state in
            RequestFault.allCases.first { Self.rolls(state.faults[keyPath: $0.probability], &state.generator) }
        }
    }

    func number(in range: ClosedRange<Int>) -> Int {
        state.withLock { Int.random(in: range, using: &$0.generator) }
    }

    private static func rolls(_ probability: Double, _ generator: inout SeededGenerator) -> Bool {
        probability > 0 && Double.random(in: 0..<1, using: &generator) < probability
    }
}
