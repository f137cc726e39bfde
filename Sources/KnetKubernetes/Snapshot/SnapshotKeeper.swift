import FoundationEssentials
import KnetCore
import KnetLinux
import Logging
import Synchronization

/// Saves the state once it is whole, and after changes, but not too often; and brings it back at the start.
final class SnapshotKeeper: Sendable {
    private let path: String
    private let kinds: Set<ObjectKey.Kind>
    private let interval: Duration
    private let store: StateStore
    private let sink: StateSink
    private let logger: Logger
    private let shared = Mutex<(trouble: String?, savedAt: Int?)>((nil, nil))

    /// How soon the first one is saved.
    private static let first = Duration.seconds(1)

    init(
        path: String, kinds: Set<ObjectKey.Kind>, interval: Duration, store: StateStore, sink: StateSink, logger: Logger
    ) {
        self.path = path
        self.kinds = kinds
        self.interval = interval
        self.store = store
        self.sink = sink
        self.logger = logger
    }

    /// Why the last one could not be read or written.
    var trouble: String? { shared.withLock { $0.trouble } }

    /// Seconds since the last one was saved; `nil` where there is none.
    var age: Int? { shared.withLock { $0.savedAt }.map { max(Self.now - $0, 0) } }

    private static var now: Int { Int(Date().timeIntervalSince1970) }

    /// Fills the state with what was saved.
    func restore() async {
        do {
            guard let snapshot = try await blocking({ [path] in try Snapshot.read(path) }) else { return }
            let objects = snapshot.objects.filter { kinds.contains($0.key) }
            let all = objects.values.joined()
            store.update(Set(all.map(\.key)), saved: Set(objects.keys)) { state in
                for object in all { state.set(object) }
            }
            shared.withLock { $0.savedAt = snapshot.savedAt }
            logger.notice(
                "the cluster is known from a snapshot until the API server answers",
                metadata: [
                    "op": "snapshot", "objects": "\(all.count)", "age": "\(max(Self.now - snapshot.savedAt, 0))",
                ])
        } catch {
            report("\(path) cannot be used: \(error)")
        }
    }

    /// Saves until the task is cancelled, then once more.
    func run() async {
        var saved = 0
        var pause = Self.first
        while (try? await Task.sleep(for: pause)) != nil {
            let changes = sink.changes.load(ordering: .relaxed)
            guard store.current.isComplete(kinds) else { continue }
            pause = interval
            if changes != saved, await save() { saved = changes }
        }
        // What happened since is not to be forgotten by a restart.
        if store.current.isComplete(kinds), sink.changes.load(ordering: .relaxed) != saved { _ = await save() }
    }

    private func save() async -> Bool {
        let state = store.current
        do {
            let now = Self.now
            // Not of this task's life: a write that has begun goes to its end.
            try await Task { [path, kinds] in
                try await blocking { try Snapshot.write(state, kinds: kinds, to: path, now: now) }
            }.value
            shared.withLock { $0 = (nil, now) }
            return true
        } catch {
            report("the snapshot cannot be written: \(error)")
            return false
        }
    }

    private func report(_ trouble: String) {
        shared.withLock { $0.trouble = trouble }
        logger.warning("no snapshot", metadata: ["op": "snapshot", "reason": "\(trouble)"])
    }
}
