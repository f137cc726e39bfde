import KnetCore
import Logging
import Synchronization

/// Brings what reflectors learn into the state, as far as it is news.
final class StateSink: ReflectorSink {
    private let store: StateStore
    private let logger: Logger
    private let shared = Mutex<[ObjectKey: String]>([:])
    /// Counts changes of the cluster's objects.
    let changes = Atomic(0)

    init(store: StateStore, logger: Logger) {
        self.store = store
        self.logger = logger
    }

    /// Objects that are skipped now, and why.
    var faults: [String] { shared.withLock { $0.map { "\($0.key): \($0.value)" }.sorted() } }

    func changed(_ kind: ObjectKey.Kind, set: [AnyClusterObject], removed: [ObjectKey]) {
        let state = store.current
        for key in removed { note(key, nil) }
        var removed = removed
        var news: [AnyClusterObject] = []
        for object in set {
            if let defect = object.defect {
                note(object.key, defect)
                removed.append(object.key)
            } else {
                note(object.key, nil)
                if state.object(object.key) != object { news.append(object) }
            }
        }
        publish(news, removed: removed.filter { state.object($0) != nil })
    }

    func told(_ kind: ObjectKey.Kind, all keys: Set<ObjectKey>) {
        let gone = store.current.keys(of: kind).filter { !keys.contains($0) }
        shared.withLock { faults in faults = faults.filter { $0.key.kind != kind || keys.contains($0.key) } }
        publish([], removed: gone, told: [kind])
    }

    private func publish(_ news: [AnyClusterObject], removed: [ObjectKey], told: Set<ObjectKey.Kind> = []) {
        let isNews = !told.isSubset(of: store.current.told)
        guard !news.isEmpty || !removed.isEmpty || isNews else { return }
        store.update(Set(news.map(\.key)).union(removed), told: told) { state in
            for object in news { state.set(object) }
            for key in removed { state.remove(key) }
        }
        changes.add(1, ordering: .relaxed)
    }

    private func note(_ key: ObjectKey, _ defect: String?) {
        let isNew = shared.withLock { faults in
            guard faults[key] != defect else { return false }
            faults[key] = defect
            return defect != nil
        }
        if isNew {
            logger.warning(
                "object skipped", metadata: ["op": "watch", "object": "\(key)", "reason": "\(defect ?? "")"])
        }
    }
}
