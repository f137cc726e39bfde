/// One turn of the reconciler, without time, threads or streams: state in, kernel batch out.
struct ReconcilePass<P: Plugin> {
    let plugin: P
    private(set) var tracker = Tracker<P.Entry>()
    /// What went wrong per object, until it goes right.
    private(set) var faults: [ObjectKey: String] = [:]
    /// The reason why the kernel could not be read.
    private(set) var readFault: String?
    /// What the kernel refused, wherever it came from, including removals that no object owns any more.
    private(set) var refused: [String] = []

    struct Outcome {
        var added = 0
        var removed = 0
        var failed = 0
    }

    init(plugin: P) { self.plugin = plugin }

    var needsRetry: Bool { readFault != nil || !refused.isEmpty }

    /// - Parameter resync: whether to read the kernel back and compare everything.
    mutating func run(_ change: StateStore.Change, resync: Bool) -> Outcome {
        var objectFaults: [ObjectKey: String] = [:]
        let keys = plugin.affected(by: change.keys, in: change.state)
        for key in keys {
            do {
                tracker.want(try plugin.entries(for: key, in: change.state), for: key)
            } catch {
                tracker.want([], for: key)
                objectFaults[key] = "\(error)"
            }
        }
        for key in keys {
            faults[key] =
                objectFaults[key] ?? tracker.disputes(over: key).map { "conflicts with \($0), which stays in force" }
        }
        if resync || readFault != nil {
            do {
                tracker.adopt(try plugin.read())
                readFault = nil
            } catch {
                readFault = "reading the kernel: \(error)"
                return Outcome(failed: 1)
            }
        }
        var outcome = Outcome()
        if apply(mayRemove: change.state.isComplete, into: &outcome) {
            do { tracker.adopt(try plugin.read()) } catch { readFault = "reading the kernel: \(error)" }
            _ = apply(mayRemove: change.state.isComplete, into: &outcome)
        }
        return outcome
    }

    /// - Returns: whether the kernel must be read back.
    private mutating func apply(mayRemove: Bool, into outcome: inout Outcome) -> Bool {
        let changes = tracker.changes(mayRemove: mayRemove)
        let result = changes.isEmpty ? KernelOutcome() : plugin.apply(changes)
        tracker.record(changes, failures: result.failures)
        note(result.failures, keys: Set(changes.add.compactMap { tracker.owner(of: $0.id) }))
        let failed = Set(result.failures.map(\.entry.id))
        outcome.added += changes.add.count { !failed.contains($0.id) }
        outcome.removed += changes.remove.count { !failed.contains($0.id) }
        outcome.failed = result.failures.count
        return result.mustReadBack
    }

    private mutating func note(_ failures: [KernelFailure<P.Entry>], keys: Set<ObjectKey>) {
        for key in keys where faults[key]?.hasPrefix(Self.refusal) == true { faults[key] = nil }
        refused = []
        for failure in failures {
            let text = "\(failure.entry): \(failure.reason)"
            refused.append(text)
            if let owner = tracker.owner(of: failure.entry.id) { faults[owner] = Self.refusal + text }
        }
    }

    private static var refusal: String { "the kernel refused " }
}
