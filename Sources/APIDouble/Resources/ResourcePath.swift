/// What a path below `/api` or `/apis` names.
struct ResourcePath {
    let resource: Resource
    /// Empty for all namespaces and for what is in none.
    let namespace: String
    /// Empty for a collection.
    let name: String
    let subresource: String
}

/// The resources that the server knows.
struct ResourceTable: Sendable {
    private(set) var resources = Resource.builtIn

    mutating func register(_ resource: Resource) {
        if !resources.contains(resource) { resources.append(resource) }
    }

    func resource(apiVersion: String?, kind: String?) -> Resource? {
        resources.first { $0.apiVersion == apiVersion && $0.kind == kind }
    }

    /// - Returns: `nil` for a group or version that nobody serves: 404 as text.
    /// - Throws: 404 for an unknown resource of a known group.
    func parse(_ path: [String]) throws(Status) -> ResourcePath? {
        let isCore = path.first == "api"
        guard isCore || path.first == "apis", path.count > (isCore ? 2 : 3) else { return nil }
        let group = isCore ? "" : path[1]
        let version = isCore ? path[1] : path[2]
        let served = resources.filter { $0.group == group && $0.version == version }
        guard !served.isEmpty else { return nil }
        var rest = path.dropFirst(isCore ? 2 : 3)
        var namespace = ""
        if rest.count > 2, rest.first == "namespaces",
            served.contains(where: { $0.isNamespaced && $0.plural == rest[rest.startIndex + 2] })
        {
            namespace = rest[rest.startIndex + 1]
            rest = rest.dropFirst(2)
        }
        let words = Array(rest)
        guard let resource = served.first(where: { $0.plural == words[0] && ($0.isNamespaced || namespace.isEmpty) }),
            words.count <= 3
        else { throw .unknownResource }
        return ResourcePath(
            resource: resource, namespace: namespace, name: words.count > 1 ? words[1] : "",
            subresource: words.count > 2 ? words[2] : "")
    }
}
