public import KnetCore
import Synchronization

extension APIDouble {
    /// An object that nobody can tell the place of.
    public enum BadObject: Error, CustomStringConvertible {
        case unknownKind(apiVersion: String?, kind: String?)
        case nameless(kind: String)

        public var description: String {
            switch self {
            case .unknownKind(let apiVersion, let kind):
                "the server knows no \(kind ?? "object without kind") of \(apiVersion ?? "no version")"
            case .nameless(let kind): "\(kind) without metadata.name"
            }
        }
    }

    /// Creates or replaces one object, status and all. It needs apiVersion, kind and a name; without a namespace it is in
    /// `default` where its kind has namespaces.
    /// - Returns: the object as stored.
    @discardableResult
    public func put(_ object: JSONValue) throws(BadObject) -> JSONValue {
        let (resource, key) = try place(object)
        return dispatcher.store.write(resource, key) { _ in object }?.json ?? object
    }

    /// Several objects, one write each.
    public func putMany(_ objects: [JSONValue]) throws(BadObject) {
        for object in objects { try put(object) }
    }

    /// - Returns: whether there was such an object.
    @discardableResult
    public func delete(_ resource: Resource, namespace: String = "", name: String) -> Bool {
        dispatcher.store.write(resource, ObjectKey(namespace: namespace, name: name)) { _ in nil } != nil
    }

    public func object(_ resource: Resource, namespace: String = "", name: String) -> JSONValue? {
        dispatcher.store.object(resource, ObjectKey(namespace: namespace, name: name))?.json
    }

    /// All objects of a resource, by namespace and name.
    public func objects(_ resource: Resource) -> [JSONValue] {
        dispatcher.store.list(resource, at: nil, isPaged: false)?.objects.map(\.json) ?? []
    }

    /// The revision of the last write.
    public var revision: Int { dispatcher.store.revision }

    /// Forgets the history: watches and lists of older revisions get 410.
    public func compact() { dispatcher.store.compact() }

    /// Becomes a server with another, empty history, as one that was set up anew or restored from a backup: revisions start
    /// again at `revision`, connections are closed.
    /// - Parameter objectsToo: forgets the objects as well.
    public func forgetEverything(objectsToo: Bool, revision: Int = 1) async throws {
        await stop()
        dispatcher.store.startAgain(at: revision, keepingObjects: !objectsToo)
        try await restart()
    }

    private func place(_ object: JSONValue) throws(BadObject) -> (Resource, ObjectKey) {
        let apiVersion = object["apiVersion"]?.string
        let kind = object["kind"]?.string
        guard let resource = dispatcher.table.withLock({ $0.resource(apiVersion: apiVersion, kind: kind) }) else {
            throw .unknownKind(apiVersion: apiVersion, kind: kind)
        }
        guard let name = object.at("metadata", "name")?.string, !name.isEmpty else {
            throw .nameless(kind: resource.kind)
        }
        let namespace = resource.isNamespaced ? object.at("metadata", "namespace")?.string ?? "default" : ""
        return (resource, ObjectKey(namespace: namespace, name: name))
    }
}
