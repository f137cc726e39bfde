/// Answers lists: https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list
struct Lists {
    let store: ObjectStore

    /// Which revision a list must show.
    private struct Wanted {
        let revision: Int
        /// Otherwise the present state, once it has come as far as that.
        let isExact: Bool

        var exact: Int? { isExact ? revision : nil }
    }

    /// What one list request is answered.
    /// - Returns: `nil` where the revision it asks for is not reached yet.
    /// - Throws: 400 for options that exclude each other, 410 for what is compacted.
    func page(_ path: ResourcePath, _ selector: Selector, _ options: ListOptions) throws(Status) -> ObjectList? {
        let token = options.continueToken.isEmpty ? nil : try ContinueToken(options.continueToken)
        let wanted = try wanted(options, token)
        guard wanted.revision <= store.revision else { return nil }
        // A watch cache does not divide what may be of any age.
        let limit = options.resourceVersion == "0" ? 0 : options.limit
        guard let state = store.list(path.resource, at: wanted.exact, isPaged: limit > 0) else {
            throw expired(token)
        }
        var rest = state.objects[...]
        if let token { rest = rest.drop { $0.key.path <= token.after } }
        return cut(rest, limit: limit, revision: state.revision, path, selector)
    }

    /// The revision that a list waits for.
    func neededRevision(_ options: ListOptions) throws(Status) -> Int {
        try wanted(options, options.continueToken.isEmpty ? nil : ContinueToken(options.continueToken)).revision
    }

    private func wanted(_ options: ListOptions, _ token: ContinueToken?) throws(Status) -> Wanted {
        if let token {
            guard options.resourceVersion.isEmpty || options.resourceVersion == "0" else {
                throw .badRequest("specifying resource version is not allowed when using continue")
            }
            return Wanted(revision: max(token.revision, 0), isExact: token.revision > 0)
        }
        let revision = try options.revision() ?? 0
        let isExact = options.match == .exact || (options.match == nil && options.limit > 0 && revision > 0)
        return Wanted(revision: revision, isExact: isExact)
    }

    private func expired(_ token: ContinueToken?) -> Status {
        guard let token else { return .expired("The resourceVersion for the provided list is too old.") }
        var status = Status.expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list "
                + "without the continue parameter, or use the continue token in this response to retrieve the remainder "
                + "of the results. Continuing with the provided token results in an inconsistent list - objects that were "
                + "created, modified, or deleted between the time the first chunk was returned and now may show up in "
                + "the list.")
        status.continueToken = ContinueToken(revision: -1, after: token.after).text
        return status
    }

    private func cut(
        _ objects: ArraySlice<StoredObject>, limit: Int, revision: Int, _ path: ResourcePath, _ selector: Selector
    ) -> ObjectList {
        let selected = objects.filter(selector.matches)[...]
        var list = ObjectList(resource: path.resource, revision: revision, objects: selected)
        guard limit > 0, selected.count > limit, let last = selected.prefix(limit).last else { return list }
        list = ObjectList(resource: path.resource, revision: revision, objects: selected.prefix(limit))
        list.continueToken = ContinueToken(revision: revision, after: last.key.path).text
        list.remaining = selector.isEmpty ? selected.count - limit : nil
        return list
    }
}
