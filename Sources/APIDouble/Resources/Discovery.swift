import KnetCore

extension ResourceTable {
    /// What the server says it serves, for `/apis`, `/api/v1` and `/apis/<group>/<version>`.
    /// - Returns: `nil` for every other path.
    func discovery(_ path: [String]) -> JSONValue? {
        switch (path.first, path.count) {
        case ("apis", 1): return groups
        case ("api", 2): return resources(group: "", version: path[1])
        case ("apis", 3): return resources(group: path[1], version: path[2])
        default: return nil
        }
    }

    private var groups: JSONValue {
        var versions: [String: [String]] = [:]
        for resource in resources where !resource.group.isEmpty {
            if !versions[resource.group, default: []].contains(resource.version) {
                versions[resource.group, default: []].append(resource.version)
            }
        }
        let groups = versions.sorted { $0.key < $1.key }.map { group, versions in
            let entries = versions.map { version in
                JSONValue.object(["groupVersion": .string("\(group)/\(version)"), "version": .string(version)])
            }
            return JSONValue.object([
                "name": .string(group), "versions": .array(entries), "preferredVersion": entries[0],
            ])
        }
        return .object([
            "kind": "APIGroupList", "apiVersion": "v1", "groups": .array(groups),
        ])
    }

    private func resources(group: String, version: String) -> JSONValue? {
        let served = resources.filter { $0.group == group && $0.version == version }
        guard let first = served.first else { return nil }
        let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"].map { JSONValue.string($0) }
        let entries = served.map { resource in
            JSONValue.object([
                "name": .string(resource.plural), "singularName": .string(resource.kind.lowercased()),
                "namespaced": .boolean(resource.isNamespaced), "kind": .string(resource.kind),
                "verbs": .array(verbs),
            ])
        }
        return .object([
            "kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": .string(first.apiVersion), "resources": .array(entries),
        ])
    }
}
