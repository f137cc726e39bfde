import FoundationEssentials
import HashTreeCollections
public import KnetCore
public import Logging
import Synchronization

/// What is written to Services that manifests describe: kept in a file, since manifests are the user's.
///
/// The node that the manifests name is the writer, where it is the only one: others do not see what this one writes.
public final class ManifestWriter: ClusterWriter {
    private struct Contents: Codable {
        /// By `namespace/name`.
        var services: [String: Service.Status] = [:]
    }

    private let path: String
    private let nodeName: String
    private let store: StateStore
    private let logger: Logger
    private let contents: Mutex<Contents>

    /// - Parameter path: of the file, which need not be there.
    public init(path: String, nodeName: String, store: StateStore, logger: Logger) {
        self.path = path
        self.nodeName = nodeName
        self.store = store
        self.logger = logger
        var known = Contents()
        do {
            if FileStamp(path: path) != nil {
                known = try JSONDecoder().decode(Contents.self, from: KnetCore.contents(ofFile: path))
            }
        } catch {
            logger.warning(
                "what was written to Services cannot be read; it is written anew",
                metadata: ["op": "manifests", "place": "\(path)", "reason": "\(error)"])
        }
        contents = Mutex(known)
    }

    public var isElected: Bool { elected == nodeName }

    public var elected: String? {
        let nodes = store.current.nodes
        return nodes.count <= 1 ? nodes.keys.first?.name ?? nodeName : nil
    }

    public func services() -> [Service] { Array(store.current.services.values) }

    public func write(_ status: ServiceAddresses, of key: ObjectKey) throws {
        guard let service = store.current.services[key] else { return }
        let written = service.with(status).status
        try contents.withLock { contents in
            var next = contents
            next.services[Self.name(key)] = written
            try save(next)
            contents = next
        }
        store.update([key]) { state in
            if var service = state.services[key] {
                service.status = written
                state.set(.service(service))
            }
        }
    }

    public func tell(_ notice: ClusterNotice) {
        logger.log(
            level: notice.isWarning ? .warning : .notice, "\(notice.message)",
            metadata: ["op": "status", "object": "\(notice.object)", "reason": "\(notice.reason)"])
    }

    /// The object as a manifest has it, with what was written to it since; a manifest's own addresses count.
    func withWritten(_ object: AnyClusterObject) -> AnyClusterObject {
        guard case .service(var service) = object, service.status?.loadBalancer == nil else { return object }
        guard let status = contents.withLock({ $0.services[Self.name(service.key)] }) else { return object }
        service.status = status
        return .service(service)
    }

    /// Forgets what was written to objects that are gone.
    /// - Parameter objects: all that there are.
    func forgetOthers(than objects: some Collection<ObjectKey>) {
        contents.withLock { contents in
            let names = Set(objects.map(Self.name))
            let gone = contents.services.keys.filter { !names.contains($0) }
            for name in gone { contents.services[name] = nil }
            guard !gone.isEmpty else { return }
            // Where it cannot be saved now, the next write does.
            try? save(contents)
        }
    }

    private static func name(_ key: ObjectKey) -> String { "\(key.namespace)/\(key.name)" }

    /// Whatever happens, the old file or the new one is there.
    private func save(_ contents: Contents) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        try encoder.encode(contents).write(to: URL(filePath: path), options: .atomic)
    }
}
