/// One turn of the reconciler, without time, threads or streams: state in, kernel batch out.
struct ReconcilePass<P: Plugin> {
    let plugin: P
    private(set) var tracker = Tracker<P.Entry>()
    /// The reason why the kernel could not be read; nothing is in force then.
    private(set) var readFault: String?
    /// What a plugin said of an object.
    private var objectFaults: [ObjectKey: String] = [:]
    /// What the kernel refused, until it is done or no longer wanted.
    private var refusals: [P.Entry.ID: Refusal] = [:]

    private struct Refusal {
        /// In its batch: what comes first is often the reason for the rest.
        let place: Int
        let reason: String
    }

    struct Outcome {
        var added = 0
        var removed = 0
        var failed = 0
    }

    init(plugin: P) { self.plugin = plugin }

    var needsRetry: Bool { readFault != nil || !refusals.isEmpty }

    /// What is wrong now, by object.
    var faults: [ObjectKey: String] {
        var faults = tracker.disputes.mapValues { "conflicts with \($0), which stays in force" }
        for (id, refusal) in refusals.sorted(by: { $0.value.place > $1.value.place }) {
            if let owner = tracker.owner(of: id) { faults[owner] = "the kernel refused \(refusal.reason)" }
        }
        return faults.merging(objectFaults) { $1 }
    }

    /// What is wrong now with no object to blame: reading, and removals.
    var otherFaults: [String] {
        (readFault.map { [$0] } ?? [])
            + refusals.filter { tracker.owner(of: $0.key) == nil }.values.map {
                "the kernel refused to remove \($0.reason)"
            }
    }

    /// - Parameter resync: whether to read the kernel back and compare everything.
    mutating func run(_ change: StateStore.Change, resync: Bool) -> Outcome {
        for key in plugin.affected(by: change.keys, in: change.state) { want(key, in: change.state) }
        if resync || readFault != nil, !readBack() { return Outcome(failed: 1) }
        // Before this node knows itself, no plugin can tell what it wants: nothing may be taken for unwanted.
        let mayRemove = change.state.isComplete(plugin.needs.kinds) && change.state.local != nil
        var outcome = Outcome()
        if apply(mayRemove: mayRemove, into: &outcome), readBack() {
            _ = apply(mayRemove: mayRemove, into: &outcome)
        }
        plugin.settled()
        return outcome
    }

    private mutating func want(_ key: ObjectKey, in state: ClusterState) {
        do {
            tracker.want(try plugin.entries(for: key, in: state), for: key)
            objectFaults[key] = nil
        } catch let partly as PartlyDesired<P.Entry> {
            tracker.want(partly.entries, for: key)
            objectFaults[key] = partly.reason
        } catch {
            tracker.want([], for: key)
            objectFaults[key] = "\(error)"
        }
    }

    /// - Returns: whether the kernel could be read.
    private mutating func readBack() -> Bool {
        do {
            tracker.adopt(try plugin.read())
            readFault = nil
        } catch {
            readFault = "reading the kernel: \(error)"
        }
        return readFault == nil
    }

    /// - Returns: whether the kernel must be read back.
    private mutating func apply(mayRemove: Bool, into outcome: inout Outcome) -> Bool {
        let changes = tracker.changes(mayRemove: mayRemove)
        let result = changes.isEmpty ? KernelOutcome() : plugin.apply(changes)
        tracker.record(changes, failures: result.failures)
        let failed = Set(result.failures.map(\.entry.id))
        refusals = refusals.filter { tracker.isPending($0.key) }
        for (place, failure) in result.failures.enumerated() {
            refusals[failure.entry.id] = Refusal(place: place, reason: "\(failure.entry): \(failure.reason)")
        }
        outcome.added += changes.add.count { !failed.contains($0.id) }
        outcome.removed += changes.remove.count { !failed.contains($0.id) }
        outcome.failed = result.failures.count
        return result.mustReadBack
    }
}
