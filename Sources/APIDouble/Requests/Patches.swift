import KnetCore

/// How a patch changes an object.
enum Patch: String {
    /// RFC 7396.
    case merge = "application/merge-patch+json"
    /// https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md,
    /// as far as nodes and pods need it.
    case strategic = "application/strategic-merge-patch+json"

    static func accepted(by resource: Resource) -> [Patch] { resource.isCustom ? [.merge] : [.merge, .strategic] }

    func applied(_ patch: JSONValue, to target: JSONValue?) -> JSONValue {
        switch self {
        case .merge: Self.merged(patch, into: target, lists: { _, new, _ in .array(new) }, key: "")
        case .strategic: Self.merged(patch, into: target, lists: Self.mergedList, key: "")
        }
    }

    /// Lists whose elements are told apart by a field (`patchMergeKey` in types.go).
    private static let mergeKeys = ["conditions": "type", "addresses": "type", "containers": "name", "podIPs": "ip"]

    /// Lists of texts that are sets (`patchStrategy=merge` without a key).
    private static let sets: Set<String> = ["podCIDRs", "finalizers"]

    private typealias ListRule = (_ key: String, _ new: [JSONValue], _ old: [JSONValue]) -> JSONValue

    private static func merged(_ patch: JSONValue, into target: JSONValue?, lists: ListRule, key: String) -> JSONValue {
        switch patch {
        case .object(let changes):
            if changes["$patch"]?.string == "replace" { return .object(changes.filter { $0.key != "$patch" }) }
            var members = target?.object ?? [:]
            for (name, value) in changes where !name.hasPrefix("$") {
                if value == .null || value["$patch"]?.string == "delete" {
                    members[name] = nil
                } else {
                    members[name] = merged(value, into: members[name], lists: lists, key: name)
                }
            }
            return .object(members)
        case .array(let new): return lists(key, new, target?.array ?? [])
        default: return patch
        }
    }

    private static func mergedList(_ name: String, _ new: [JSONValue], _ old: [JSONValue]) -> JSONValue {
        if sets.contains(name) { return .array(old + new.filter { !old.contains($0) }) }
        guard let mergeKey = mergeKeys[name] else { return .array(new) }
        if new.contains(where: { $0["$patch"]?.string == "replace" }) {
            return .array(new.filter { $0["$patch"] == nil })
        }
        var elements = old
        for change in new {
            let place = elements.firstIndex { $0[mergeKey] == change[mergeKey] }
            if change["$patch"]?.string == "delete" {
                elements.removeAll { $0[mergeKey] == change[mergeKey] }
            } else if let place {
                elements[place] = merged(change, into: elements[place], lists: mergedList, key: "")
            } else {
                elements.append(change)
            }
        }
        return .array(elements)
    }
}
