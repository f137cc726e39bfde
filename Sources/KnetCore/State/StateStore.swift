import Synchronization

/// The one holder of `ClusterState`. Sources change it, plugins follow it; every follower learns which keys changed
/// since it last looked, however long ago that was.
public final class StateStore: Sendable {
    /// One follower's view.
    public struct Change: Sendable {
        public let state: ClusterState
        /// Keys that were set or removed since the last look.
        public let keys: Set<ObjectKey>
    }

    private struct Follower {
        var pending: Set<ObjectKey>
        let wake: @Sendable () -> Void
    }

    private struct Contents {
        var state = ClusterState()
        var followers: [Int: Follower] = [:]
        var nextFollower = 0
    }

    private let contents = Mutex(Contents())

    public init() {}

    public var current: ClusterState { contents.withLock { $0.state } }

    /// Changes the state and wakes the followers.
    /// - Parameters:
    ///   - keys: what `body` sets or removes. The Services of EndpointSlices count as changed with them.
    ///   - told: kinds of which the source has now told everything.
    ///   - saved: kinds of which `body` sets what was saved once.
    /// - Returns: the state's version after the change.
    @discardableResult
    public func update(
        _ keys: Set<ObjectKey>, told: Set<ObjectKey.Kind> = [], saved: Set<ObjectKey.Kind> = [],
        _ body: (inout ClusterState) -> Void
    ) -> UInt64 {
        let slices = keys.filter { $0.kind == .endpointSlice }
        let (version, wakes) = contents.withLock { contents in
            // A Service that lost a slice to another has changed as well.
            var keys = keys
            keys.formUnion(slices.compactMap { contents.state.service(ofSlice: $0) })
            body(&contents.state)
            keys.formUnion(slices.compactMap { contents.state.service(ofSlice: $0) })
            contents.state.told.formUnion(told)
            contents.state.saved = contents.state.saved.union(saved).subtracting(contents.state.told)
            contents.state.version += 1
            for id in contents.followers.keys { contents.followers[id]?.pending.formUnion(keys) }
            return (contents.state.version, contents.followers.values.map(\.wake))
        }
        for wake in wakes { wake() }
        return version
    }

    /// Adds a follower, for which everything is new.
    /// - Parameter wake: called after each change, from the changer's thread; it must not block.
    public func follow(wake: @escaping @Sendable () -> Void) -> Subscription {
        let id = contents.withLock { contents in
            contents.nextFollower += 1
            contents.followers[contents.nextFollower] = Follower(pending: Set(contents.state.keys), wake: wake)
            return contents.nextFollower
        }
        return Subscription(store: self, id: id)
    }

    /// A follower's handle; it ends with its last reference.
    public final class Subscription: Sendable {
        private let store: StateStore
        private let id: Int

        fileprivate init(store: StateStore, id: Int) {
            self.store = store
            self.id = id
        }

        deinit {
            store.contents.withLock { _ = $0.followers.removeValue(forKey: id) }
        }

        /// The state now, with what changed since the last call.
        public func take() -> Change {
            store.contents.withLock { contents in
                let keys = contents.followers[id]?.pending ?? []
                contents.followers[id]?.pending = []
                return Change(state: contents.state, keys: keys)
            }
        }
    }
}
