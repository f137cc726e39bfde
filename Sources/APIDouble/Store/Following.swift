import Synchronization

/// Is told every change of one resource, in order, while the store is locked: it must only take note.
protocol ChangeFollower: AnyObject, Sendable {
    func begin(_ beginning: WatchBeginning)
    func follow(_ change: Change)
    func follow(bookmark revision: Int)
}

/// Where a watch begins.
enum WatchStart: Sendable, Equatable {
    /// With all objects there are.
    case present
    /// With what happens from now on.
    case now
    /// After this revision.
    case after(Int)
}

/// What a watch has to tell before the first change that its follower hears of.
struct WatchBeginning {
    var objects: [StoredObject] = []
    var changes: [Change] = []
    /// The revision of that state.
    var revision: Int
    /// Changes up to this revision are known to the watch; it may lie in the future.
    var position: Int
}

extension ObjectStore {
    /// Registers `follower` and tells it what came before, without a gap or an overlap between the two.
    /// - Throws: 410 Expired where the changes after that revision are forgotten.
    func follow(
        _ resource: Resource, from start: WatchStart, _ follower: any ChangeFollower
    ) throws(Status) {
        try state.withLock { state throws(Status) in
            var beginning = WatchBeginning(revision: state.revision, position: state.revision)
            switch start {
            case .present:
                let revision = state.revision
                beginning.objects = state.resources[resource.name, default: ResourceState()].state(at: revision)
            case .now: break
            case .after(let revision):
                if let refusal = state.refusal(ofWatchAfter: revision) { throw refusal }
                beginning.position = revision
                beginning.changes = Array(state.resources[resource.name]?.changes(after: revision) ?? [])
            }
            follower.begin(beginning)
            state.followers[resource.name, default: [:]][ObjectIdentifier(follower)] = follower
        }
    }

    /// Why a watch after `revision` cannot begin.
    func refusal(ofWatchAfter revision: Int) -> Status? { state.withLock { $0.refusal(ofWatchAfter: revision) } }

    func unfollow(_ resource: Resource, _ follower: any ChangeFollower) {
        state.withLock { $0.followers[resource.name]?[ObjectIdentifier(follower)] = nil }
    }

    /// Tells `follower` the present revision, after all changes up to it.
    func bookmark(_ follower: any ChangeFollower) {
        state.withLock { follower.follow(bookmark: $0.revision) }
    }

    /// All objects of a resource as of `revision`, now if `nil`, in etcd's order.
    /// - Parameter isPaged: keeps that state for the pages to come.
    /// - Returns: `nil` where that revision is compacted.
    func list(
        _ resource: Resource, at revision: Int?, isPaged: Bool
    ) -> (revision: Int, objects: [StoredObject])? {
        state.withLock { state in
            let wanted = revision ?? state.revision
            guard wanted >= state.compacted else { return nil }
            let objects = state.resources[resource.name, default: ResourceState()].state(at: wanted)
            if isPaged { state.resources[resource.name]?.remember(objects, at: wanted) }
            return (wanted, objects)
        }
    }
}

extension ObjectStore.State {
    fileprivate func refusal(ofWatchAfter revision: Int) -> Status? {
        revision < compacted ? .expired("too old resource version: \(revision) (\(compacted))") : nil
    }
}
