/// The difference between what is desired and what is applied, kept per entry, so that finding it costs in proportion
/// to what changed.
struct Tracker<Entry: KernelEntry> {
    private var wanted: [ObjectKey: [Entry]] = [:]
    /// Who wants an identity.
    private var owners: [Entry.ID: Owners] = [:]
    private(set) var applied: [Entry.ID: Entry] = [:]
    private var dirty: Set<Entry.ID> = []
    /// Identities that keys want differently.
    private var contested: Set<Entry.ID> = []

    /// Entries that are desired.
    var desiredCount: Int { owners.count }

    /// Sets what `key` wants from now on.
    mutating func want(_ entries: [Entry], for key: ObjectKey) {
        let old = wanted[key] ?? []
        if old == entries { return }
        for entry in old {
            owners[entry.id] = owners[entry.id]?.without(key)
            noteOwners(of: entry.id)
        }
        for entry in entries {
            owners[entry.id] = owners[entry.id]?.with(key, entry) ?? .one(key, entry)
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
            switch (owners[id]?.entry, applied[id]) {
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
            guard case .several(let claims, _)? = owners[id], let winner = winner(of: id) else { continue }
            for (key, entry) in claims where key != winner.key && entry != winner.entry {
                disputes[key] = winner.key
            }
        }
        return disputes
    }

    /// Whether something is still to be done for the identity.
    func isPending(_ id: Entry.ID) -> Bool { dirty.contains(id) }

    private mutating func noteOwners(of id: Entry.ID) {
        dirty.insert(id)
        if case .several(_, isDisputed: true)? = owners[id] { contested.insert(id) } else { contested.remove(id) }
    }

    private func winner(of id: Entry.ID) -> (key: ObjectKey, entry: Entry)? { owners[id]?.winner }

    /// Most identities have one owner; a dictionary for each of these would outweigh the rest.
    private enum Owners {
        case one(ObjectKey, Entry)
        /// Many may want the same: that they do is noted, for it costs nobody a comparison then.
        case several([ObjectKey: Entry], isDisputed: Bool)

        /// The least key wins, whatever the order of events was.
        var winner: (key: ObjectKey, entry: Entry)? {
            switch self {
            case .one(let key, let entry): (key, entry)
            case .several(let claims, _): claims.min { $0.key < $1.key }.map { ($0.key, $0.value) }
            }
        }

        /// What the winner wants.
        var entry: Entry? {
            switch self {
            case .one(_, let entry): entry
            case .several(let claims, isDisputed: false): claims.first?.value
            case .several: winner?.entry
            }
        }

        func with(_ key: ObjectKey, _ entry: Entry) -> Owners {
            switch self {
            case .one(key, _): return .one(key, entry)
            case .one(let other, let its): return .several([other: its, key: entry], isDisputed: its != entry)
            case .several(var claims, let wasDisputed):
                let isAnother = claims.first?.value != entry
                claims[key] = entry
                return .several(claims, isDisputed: wasDisputed ? Self.disagree(claims) : isAnother)
            }
        }

        /// - Returns: `nil` where nobody is left.
        func without(_ key: ObjectKey) -> Owners? {
            switch self {
            case .one(let owner, _): return owner == key ? nil : self
            case .several(var claims, let wasDisputed):
                claims[key] = nil
                if claims.count == 1, let last = claims.first { return .one(last.key, last.value) }
                return .several(claims, isDisputed: wasDisputed && Self.disagree(claims))
            }
        }

        private static func disagree(_ claims: [ObjectKey: Entry]) -> Bool {
            claims.values.contains { $0 != claims.first?.value }
        }
    }
}
