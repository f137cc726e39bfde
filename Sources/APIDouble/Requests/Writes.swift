import FoundationEssentials
import KnetCore

/// What POST, PUT, PATCH and DELETE do to the objects.
struct Writes {
    let store: ObjectStore

    func create(_ path: ResourcePath, _ body: JSONValue) throws(Status) -> StoredObject {
        let resource = path.resource
        guard let name = body.at("metadata", "name")?.string, !name.isEmpty else {
            throw .invalid(
                group: resource.group, kind: resource.kind,
                [
                    Status.Cause(
                        type: "FieldValueRequired", message: "Required value: name or generateName is required",
                        field: "metadata.name")
                ])
        }
        let key = try key(path, name: name, body)
        return try written(path, key) { present throws(Status) in
            guard present == nil else { throw .alreadyExists(resource, name) }
            return body
        }
    }

    func replace(_ path: ResourcePath, _ body: JSONValue) throws(Status) -> StoredObject {
        guard body.at("metadata", "name")?.string == path.name else {
            throw .badRequest(
                "the name of the object (\(body.at("metadata", "name")?.string ?? "")) does not match the name on the "
                    + "URL (\(path.name))")
        }
        let key = try key(path, name: path.name, body)
        return try written(path, key) { present throws(Status) in
            let present = try checked(present, path, against: body)
            return try restricted(body, path, present: present.json)
        }
    }

    func patch(_ path: ResourcePath, _ kind: Patch, _ body: JSONValue) throws(Status) -> StoredObject {
        let key = ObjectKey(namespace: path.namespace, name: path.name)
        return try written(path, key) { present throws(Status) in
            let present = try checked(present, path, against: body)
            return try restricted(kind.applied(body, to: present.json), path, present: present.json)
        }
    }

    func delete(_ path: ResourcePath) throws(Status) -> StoredObject {
        let key = ObjectKey(namespace: path.namespace, name: path.name)
        guard let last = store.write(path.resource, key, { _ in nil }) else {
            throw .notFound(path.resource, path.name)
        }
        return last
    }

    private func written(
        _ path: ResourcePath, _ key: ObjectKey, _ change: (StoredObject?) throws(Status) -> JSONValue
    ) throws(Status) -> StoredObject {
        let object = try store.write(path.resource, key, skipsEqual: true) { present throws(Status) in
            try change(present)
        }
        guard let object else { throw .notFound(path.resource, key.name) }
        return object
    }

    private func key(_ path: ResourcePath, name: String, _ body: JSONValue) throws(Status) -> ObjectKey {
        guard path.resource.isNamespaced else { return ObjectKey(namespace: "", name: name) }
        let given = body.at("metadata", "namespace")?.string ?? path.namespace
        guard given == path.namespace else {
            throw .badRequest(
                "the namespace of the provided object does not match the namespace sent on the request")
        }
        return ObjectKey(namespace: path.namespace, name: name)
    }

    /// - Throws: 404 where there is no such object, 409 where the change was made to another version of it.
    private func checked(
        _ present: StoredObject?, _ path: ResourcePath, against body: JSONValue
    ) throws(Status) -> StoredObject {
        guard let present else { throw .notFound(path.resource, path.name) }
        if let expected = body.at("metadata", "resourceVersion")?.string, !expected.isEmpty,
            expected != "\(present.revision)"
        {
            throw .conflict(path.resource, path.name)
        }
        if let expected = body.at("metadata", "uid"), expected != present.json.at("metadata", "uid") {
            throw .conflict(path.resource, path.name)
        }
        return present
    }

    /// The part of `content` that this path may write: with the subresource `status` only that, labels and annotations,
    /// without it everything else.
    private func restricted(
        _ content: JSONValue, _ path: ResourcePath, present: JSONValue
    ) throws(Status) -> JSONValue {
        guard path.resource.hasStatus else {
            if path.subresource.isEmpty { return content }
            throw .unknownResource
        }
        switch path.subresource {
        case "": return content.setting("status", present["status"])
        case "status":
            return present.setting("status", content["status"])
                .settingMetadata("labels", content.at("metadata", "labels"))
                .settingMetadata("annotations", content.at("metadata", "annotations"))
        default: throw .unknownResource
        }
    }
}
