import Synchronization

/// How many queries wait for other servers' answers, from the moment in which they are handed on. Without a bound, whoever asks for more
/// names than others can be asked for fills the memory, and who comes after waits behind.
final class WaitingQueries: Sendable {
    private let count = Atomic<Int>(0)
    private let refused = Atomic<Int>(0)

    private let most: Int

    /// - Parameter most: queries that may wait at a time.
    init(most: Int) { self.most = most }

    /// Queries that found no room.
    var refusals: Int { refused.load(ordering: .relaxed) }

    /// - Returns: whether one more may wait; `leave` is called when it does no longer.
    func enter() -> Bool {
        if count.add(1, ordering: .relaxed).newValue <= most { return true }
        leave()
        refused.add(1, ordering: .relaxed)
        return false
    }

    func leave() { count.subtract(1, ordering: .relaxed) }
}
