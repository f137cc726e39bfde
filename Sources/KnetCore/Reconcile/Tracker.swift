/// The difference between what is desired and what is applied, kept per entry, so that finding it costs in proportion
/// to what changed.
struct Tracker<Entry: KernelEntry> {
    private var wanted: [ObjectKey: [Entry]] = [:]
    /// Who wants an identity. Of several, the least key wins, whatever the order of events was.
    private var owners: [Entry.ID: [ObjectKey: Entry]] = [:]
    private(set) var applied: [Entry.ID: Entry] = [:]
    private var dirty: Set<Entry.ID> = []
    /// Identities that more than one key wants.
    private var contested: Set<Entry.ID> = []

    /// Entries that are desired.
    var desiredCount: Int { owners.count }

    /// Sets what `key` wants from now on.
    mutating func want(_ entries: [Entry], for key: ObjectKey) {
        let old = wanted[key] ?? []
        if old == entries { return }
        for entry in old {
            owners[entry.id]?[key] = nil
            if owners[entry.id]?.isEmpty == true { owners[entry.id] = nil }
            noteOwners(of: entry.id)
        }
        for entry in entries {
            owners[entry.id, default: [:]][key] = entry
            noteOwners(of: entry.id)
        }
        wanted[key] = entries.isEmpty ? nil : entries
    }

    /// Takes what the kernel was read to hold as applied; all of it is compared again.
    mutating func adopt(_ kernel: [Entry]) {
        applied = Dictionary(kernel.map { ($0.id, $0) }) { _, last in last }
        dirty = Set(applied.keys).union(owners.keys)
    }

    /// What must be done so that applied becomes desired.
    /// - Parameter mayRemove: false keeps what nobody wants, for a later call.
    mutating func changes(mayRemove: Bool) -> KernelChanges<Entry> {
        var changes = KernelChanges<Entry>()
        var settled: [Entry.ID] = []
        for id in dirty {
            switch (winner(of: id)?.entry, applied[id]) {
            case (let desired?, let present) where desired != present:
                changes.add.append(desired)
                changes.replaced[id] = present
            case (nil, let present?) where present.isRemovable:
                if mayRemove { changes.remove.append(present) }
            default: settled.append(id)
            }
        }
        dirty.subtract(settled)
        return changes
    }

    /// Records the outcome of `changes`; what failed stays to be done.
    mutating func record(_ changes: KernelChanges<Entry>, failures: [KernelFailure<Entry>]) {
        let failed = Set(failures.map(\.entry.id))
        for entry in changes.add where !failed.contains(entry.id) {
            applied[entry.id] = entry
            dirty.remove(entry.id)
        }
        for entry in changes.remove where !failed.contains(entry.id) {
            applied[entry.id] = nil
            dirty.remove(entry.id)
        }
    }

    /// The key on whose account the identity is desired.
    func owner(of id: Entry.ID) -> ObjectKey? { winner(of: id)?.key }

    /// Keys that want an identity which another key has, with that other key.
    var disputes: [ObjectKey: ObjectKey] {
        var disputes: [ObjectKey: ObjectKey] = [:]
        for id in contested {
            guard let winner = winner(of: id) else { continue }
            for (key, entry) in owners[id] ?? [:] where key != winner.key && entry != winner.entry {
                disputes[key] = winner.key
            }
        }
        return disputes
    }

    /// Whether something is still to be done for the identity.
    func isPending(_ id: Entry.ID) -> Bool { dirty.contains(id) }

    private mutating func noteOwners(of id: Entry.ID) {
        dirty.insert(id)
        if (owners[id]?.count ?? 0) > 1 { contested.insert(id) } else { contested.remove(id) }
    }

    private func winner(of id: Entry.ID) -> (key: ObjectKey, entry: Entry)? {
        owners[id]?.min { $0.key < $1.key }.map { ($0.key, $0.value) }
    }
}
