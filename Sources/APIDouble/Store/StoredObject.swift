import KnetCore
import Synchronization

/// One version of an object, with its encodings made when first asked for.
final class StoredObject: Sendable {
    let resource: Resource
    let key: ObjectKey
    /// `metadata.resourceVersion`.
    let revision: Int
    let json: JSONValue

    private struct Encodings {
        var json: [UInt8]?
        var listItem: [UInt8]?
        var message: [UInt8]?
    }
    private let encodings = Mutex(Encodings())

    init(resource: Resource, key: ObjectKey, revision: Int, json: JSONValue) {
        self.resource = resource
        self.key = key
        self.revision = revision
        self.json = json.settingMetadata("resourceVersion", .string("\(revision)"))
    }

    /// The same content as of a later revision: what is told of an object that is no more, or no longer selected.
    func stamped(_ revision: Int) -> StoredObject {
        StoredObject(resource: resource, key: key, revision: revision, json: json)
    }

    /// JSON text as it stands alone or in a watch event.
    var jsonText: [UInt8] {
        encodings.withLock { encodings in
            if let known = encodings.json { return known }
            let text = JSONWriter.text(of: json)
            encodings.json = text
            return text
        }
    }

    /// JSON text as it stands in a list, where objects of built-in types do not repeat their kind.
    var jsonItemText: [UInt8] {
        guard !resource.isCustom, case .object(var members) = json else { return jsonText }
        return encodings.withLock { encodings in
            if let known = encodings.listItem { return known }
            members["kind"] = nil
            members["apiVersion"] = nil
            let text = JSONWriter.text(of: .object(members))
            encodings.listItem = text
            return text
        }
    }

    /// The protobuf message, without envelope; empty for custom resources, which have none.
    var message: [UInt8] {
        guard let type = ProtobufMessage.ofKind[resource.kind] else { return [] }
        return encodings.withLock { encodings in
            if let known = encodings.message { return known }
            let bytes = type.encode(json)
            encodings.message = bytes
            return bytes
        }
    }
}

extension JSONValue {
    /// `self[first][second]…`.
    func at(_ path: String...) -> JSONValue? {
        path.reduce(self) { value, key in value?[key] }
    }

    /// This object with `key` set, or taken away by `nil`.
    func setting(_ key: String, _ value: JSONValue?) -> JSONValue {
        var members = object ?? [:]
        members[key] = value
        return .object(members)
    }

    func settingMetadata(_ key: String, _ value: JSONValue?) -> JSONValue {
        setting("metadata", (self["metadata"] ?? .object([:])).setting(key, value))
    }
}
