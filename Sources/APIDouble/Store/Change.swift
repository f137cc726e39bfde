/// One write, as the history keeps it.
struct Change: Sendable {
    enum Kind: String {
        case added = "ADDED"
        case modified = "MODIFIED"
        case deleted = "DELETED"
    }

    let kind: Kind
    let revision: Int
    /// The object after the write; a deleted one is its last content with the revision of its deletion.
    let object: StoredObject
    let previous: StoredObject?

    /// What a watch with this selector is told: an object that starts or stops to match looks created or deleted.
    /// - Returns: `nil` where it matched neither before nor after.
    func seen(through selector: Selector) -> (kind: Kind, object: StoredObject)? {
        let matchesNow = kind != .deleted && selector.matches(object)
        let matchedBefore = previous.map(selector.matches) ?? false
        switch (matchedBefore, matchesNow) {
        case (false, false): return nil
        case (false, true): return (.added, object)
        case (true, true): return (.modified, object)
        case (true, false): return (.deleted, kind == .deleted ? object : previous?.stamped(revision) ?? object)
        }
    }
}
