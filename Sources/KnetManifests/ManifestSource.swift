import HashTreeCollections
public import KnetCore
import KnetLinux
public import Logging
import Synchronization

/// The embedded source of cluster state: a directory of Kubernetes manifests, followed by inotify.
public final class ManifestSource: ClusterSource {
    private let path: String
    private let store: StateStore
    private let writer: ManifestWriter
    private let logger: Logger
    private let shared = Mutex<[ManifestFault]>([])

    public init(directory path: String, store: StateStore, writer: ManifestWriter, logger: Logger) {
        self.path = path
        self.store = store
        self.writer = writer
        self.logger = logger
    }

    public var report: SourceReport {
        var report = SourceReport(title: "manifests in \(path)", isLive: isRead)
        if !isRead { report.troubles = ["the manifests in \(path) have not been read yet"] }
        // A folder that cannot be read now is among them.
        report.faults = shared.withLock { $0.map(\.description) }
        return report
    }

    private var isRead: Bool { store.current.isComplete(ObjectKey.clusterKinds) }

    /// Follows the directory until the task is cancelled.
    public func run() async {
        let directory = Mutex(ManifestDirectory(path: path))
        // The watch is set before the first look, so that no change falls between.
        for await _ in DirectoryWatch.changes(of: path) {
            // Reading many files takes time, which the cooperative pool has not.
            let look = try? await blocking {
                directory.withLock { directory in (directory.scan(), directory.faults, directory.isRead) }
            }
            guard let (changes, faults, canRead) = look else { continue }
            report(faults)
            if canRead, !changes.isEmpty || !isRead { publish(changes) }
            if changes.added.count + changes.removed.count > Self.manyObjects {
                // The text of many objects is larger than they are. Who follows them works for a while, too.
                Task {
                    try? await Task.sleep(for: .seconds(1))
                    try? await blocking { FreeMemory.giveBack() }
                }
            }
        }
    }

    private static let manyObjects = 500

    private func publish(_ changes: ManifestDirectory.Changes) {
        let keys = Set(changes.added.map(\.key)).union(changes.removed)
        store.update(keys, told: ObjectKey.clusterKinds) { state in
            for object in changes.added { state.set(writer.withWritten(object)) }
            for key in changes.removed { state.remove(key) }
        }
        writer.forgetOthers(than: store.current.services.keys)
        logger.info(
            "manifests changed",
            metadata: ["op": "manifests", "set": "\(changes.added.count)", "removed": "\(changes.removed.count)"])
    }

    private func report(_ faults: [ManifestFault]) {
        let known = shared.withLock { shared in
            defer { shared = faults }
            return Set(shared)
        }
        for fault in faults where !known.contains(fault) {
            logger.warning(
                "manifest skipped",
                metadata: ["op": "manifests", "place": "\(fault.place)", "reason": "\(fault.reason)"])
        }
    }
}
