import Synchronization

/// A value that is made when it is first asked for. Whoever asks meanwhile waits.
final class MadeOnce<Value: Sendable>: Sendable {
    private let make: @Sendable () -> Value
    private let held = Mutex<Value?>(nil)
    private let isHeld = Atomic(false)

    init(_ make: @escaping @Sendable () -> Value) { self.make = make }

    var value: Value {
        held.withLock { held in
            let value = held ?? make()
            held = value
            isHeld.store(true, ordering: .releasing)
            return value
        }
    }

    /// Whether nobody would wait.
    var isMade: Bool { isHeld.load(ordering: .acquiring) }
}
