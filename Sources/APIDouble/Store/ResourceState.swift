/// The objects of one resource and what became of them.
struct ResourceState {
    private(set) var objects: [ObjectKey: StoredObject] = [:]
    /// Oldest first; only what was not compacted.
    private(set) var history: [Change] = []
    private var sorted: [StoredObject]?
    /// Past states that pages of lists still refer to, latest last.
    private var snapshots: [(revision: Int, objects: [StoredObject])] = []

    private static let mostSnapshots = 8

    mutating func apply(_ change: Change) {
        objects[change.object.key] = change.kind == .deleted ? nil : change.object
        history.append(change)
        sorted = nil
    }

    mutating func compact() {
        history = []
        snapshots = []
    }

    /// Every object as of `revision`, in etcd's order. The history must reach back so far.
    mutating func state(at revision: Int) -> [StoredObject] {
        if let known = snapshots.last(where: { $0.revision == revision }) { return known.objects }
        let later = changes(after: revision)
        guard !later.isEmpty else {
            let present = sorted ?? objects.values.sorted { $0.key < $1.key }
            sorted = present
            return present
        }
        var past = objects
        for change in later.reversed() { past[change.object.key] = change.previous }
        let state = past.values.sorted { $0.key < $1.key }
        remember(state, at: revision)
        return state
    }

    /// Keeps `state` for the following pages of a list.
    mutating func remember(_ state: [StoredObject], at revision: Int) {
        guard !snapshots.contains(where: { $0.revision == revision }) else { return }
        snapshots.append((revision, state))
        if snapshots.count > Self.mostSnapshots { snapshots.removeFirst() }
    }

    func changes(after revision: Int) -> ArraySlice<Change> {
        var low = history.startIndex
        var high = history.endIndex
        while low < high {
            let middle = (low + high) / 2
            if history[middle].revision > revision { high = middle } else { low = middle + 1 }
        }
        return history[low...]
    }
}
