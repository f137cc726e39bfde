import KnetCore
import Synchronization

/// What could not be added to the kernel, and why: the host's stack does its work, and it is tried again when there may be room.
final class Shortfall<Entry: KernelEntry>: Sendable {
    private let missing = Mutex<[Entry.ID: (entry: Entry, reason: String)]>([:])
    /// What is told before each reason.
    private let consequence: String

    private static var mostFaults: Int { 3 }

    init(_ consequence: String) { self.consequence = consequence }

    /// Runs `body` for the entry.
    func attempt(_ entry: Entry, _ body: () throws -> Void) -> (any Error)? {
        do {
            try body()
            forget(entry)
            return nil
        } catch {
            missing.withLock { $0[entry.id] = (entry, "\(entry): \(error)") }
            return error
        }
    }

    func forget(_ entry: Entry) { missing.withLock { _ = $0.removeValue(forKey: entry.id) } }

    func forgetAll() { missing.withLock { $0 = [:] } }

    func contains(_ entry: Entry) -> Bool { missing.withLock { $0[entry.id] != nil } }

    var entries: [Entry] { missing.withLock { $0.values.map(\.entry) } }

    /// Tries again when there may be room, those first that need least: where one has none, larger ones have none either.
    func retry(by room: (Entry) -> Int, _ body: (Entry) throws -> Void) {
        for entry in entries.sorted(by: { room($0) < room($1) }) {
            if attempt(entry, { try body(entry) }) != nil { return }
        }
    }

    /// A line for each; of many alike the first ones.
    var faults: [String] {
        let all = missing.withLock { $0.values.map(\.reason).sorted() }
        let told = all.prefix(Self.mostFaults).map { "\(consequence): \($0)" }
        return told + (all.count > told.count ? ["\(all.count - told.count) more of these"] : [])
    }
}
