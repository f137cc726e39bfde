import FoundationEssentials
import KnetCore
import Synchronization
import TestSupport

/// Objects and their history behind one revision counter, as etcd has it.
final class ObjectStore: Sendable {
    struct State {
        var revision: Int
        /// Changes up to this revision are forgotten.
        var compacted: Int
        var resources: [String: ResourceState] = [:]
        var followers: [String: [ObjectIdentifier: any ChangeFollower]] = [:]
        var identifiers: SeededGenerator

        mutating func compact() {
            compacted = revision
            for name in resources.keys { resources[name]?.compact() }
        }
    }

    let state: Mutex<State>
    private let faults: FaultInjector

    init(revision: Int, seed: UInt64, faults: FaultInjector) {
        state = Mutex(State(revision: revision, compacted: revision, identifiers: SeededGenerator(seed: seed)))
        self.faults = faults
    }

    var revision: Int { state.withLock { $0.revision } }

    func object(_ resource: Resource, _ key: ObjectKey) -> StoredObject? {
        state.withLock { $0.resources[resource.name]?.objects[key] }
    }

    /// One write: `change` gets the present object and returns the new content, or `nil` to delete it.
    /// - Parameter skipsEqual: whether content that is there already is no write at all.
    /// - Returns: the object as stored; of a deletion the last one; `nil` if there was nothing to delete.
    @discardableResult
    func write<Failure: Error>(
        _ resource: Resource, _ key: ObjectKey, skipsEqual: Bool = false,
        _ change: (StoredObject?) throws(Failure) -> JSONValue?
    ) throws(Failure) -> StoredObject? {
        let compacts = faults.rolls(\.compaction)
        return try state.withLock { state throws(Failure) in
            let present = state.resources[resource.name]?.objects[key]
            guard let content = try change(present) else {
                guard let present else { return nil }
                let last = present.stamped(state.revision + 1)
                state.append(Change(kind: .deleted, revision: last.revision, object: last, previous: present))
                return last
            }
            if skipsEqual, let present,
                present.json
                    == content.settingMetadata(
                        "resourceVersion", present.json.at("metadata", "resourceVersion"))
            {
                return present
            }
            let json = state.identified(content, resource: resource, key: key, present: present?.json)
            let object = StoredObject(resource: resource, key: key, revision: state.revision + 1, json: json)
            state.append(
                Change(
                    kind: present == nil ? .added : .modified, revision: object.revision, object: object,
                    previous: present))
            if compacts { state.compact() }
            return object
        }
    }

    /// Forgets the history, so that older revisions are gone.
    func compact() { state.withLock { $0.compact() } }

    /// Starts again at a low revision without any history, and without objects or with the present ones numbered anew.
    func startAgain(at revision: Int, keepingObjects: Bool) {
        state.withLock { state in
            let old = state.resources
            state.resources = [:]
            state.followers = [:]
            state.revision = revision
            if keepingObjects {
                for object in old.values.flatMap(\.objects.values).sorted(by: { $0.revision < $1.revision }) {
                    let copy = object.stamped(state.revision + 1)
                    state.append(Change(kind: .added, revision: copy.revision, object: copy, previous: nil))
                }
            }
            state.compact()
        }
    }
}

extension ObjectStore.State {
    fileprivate mutating func append(_ change: Change) {
        let name = change.object.resource.name
        revision = change.revision
        resources[name, default: ResourceState()].apply(change)
        for follower in followers[name, default: [:]].values { follower.follow(change) }
    }

    /// `content` with what the server fills in: identity and times of an object that exists stay what they are.
    fileprivate mutating func identified(
        _ content: JSONValue, resource: Resource, key: ObjectKey, present: JSONValue?
    ) -> JSONValue {
        let given = content["metadata"]
        let uid = present?.at("metadata", "uid") ?? given?["uid"] ?? .string(makeIdentifier())
        let created =
            present?.at("metadata", "creationTimestamp") ?? given?["creationTimestamp"]
            ?? .string(Date.now.formatted(.iso8601))
        var metadata = given?.object ?? [:]
        metadata["name"] = .string(key.name)
        metadata["namespace"] = resource.isNamespaced ? .string(key.namespace) : nil
        metadata["uid"] = uid
        metadata["creationTimestamp"] = created
        return content.setting("metadata", .object(metadata))
            .setting("kind", .string(resource.kind)).setting("apiVersion", .string(resource.apiVersion))
    }

    private mutating func makeIdentifier() -> String {
        var bytes = withUnsafeBytes(of: (identifiers.next(), identifiers.next())) { [UInt8]($0) }
        // RFC 9562, 5.4: version 4, variant 10.
        bytes[6] = bytes[6] & 0x0F | 0x40
        bytes[8] = bytes[8] & 0x3F | 0x80
        let digits = bytes.map { byte in (byte < 16 ? "0" : "") + String(byte, radix: 16) }
        return [digits[0..<4], digits[4..<6], digits[6..<8], digits[8..<10], digits[10..<16]]
            .map { $0.joined() }.joined(separator: "-")
    }
}
