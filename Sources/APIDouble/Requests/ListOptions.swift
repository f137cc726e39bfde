/// The parameters of lists and watches, checked as k8s.io/apimachinery/pkg/apis/meta/internalversion/validation does.
struct ListOptions {
    enum Match: String {
        case exact = "Exact"
        case notOlderThan = "NotOlderThan"
    }

    var isWatch = false
    /// Empty where not given.
    var resourceVersion = ""
    var match: Match?
    var limit = 0
    var continueToken = ""
    var allowsBookmarks = false
    var sendsInitialEvents: Bool?
    var timeoutSeconds: Int?

    /// - Parameter watchList: whether the server can begin a watch with the present state.
    /// - Throws: 400 for values that cannot be read, 422 for those that do not go together.
    init(query: [String: String], watchList: Bool) throws(Status) {
        isWatch = Self.flag(query["watch"]) ?? false
        resourceVersion = query["resourceVersion"] ?? ""
        continueToken = query["continue"] ?? ""
        allowsBookmarks = Self.flag(query["allowWatchBookmarks"]) ?? false
        sendsInitialEvents = Self.flag(query["sendInitialEvents"])
        timeoutSeconds = try Self.number(query["timeoutSeconds"], "timeoutSeconds")
        limit = try Self.number(query["limit"], "limit") ?? 0
        let given = query["resourceVersionMatch"] ?? ""
        match = Match(rawValue: given)
        let isLegacyStart = resourceVersion.isEmpty || resourceVersion == "0"
        if isWatch, watchList, sendsInitialEvents == nil, given.isEmpty, isLegacyStart {
            sendsInitialEvents = true
            match = .notOlderThan
        }
        let faults =
            isWatch
            ? watchFaults(given: given.isEmpty ? match?.rawValue ?? "" : given, watchList: watchList)
            : listFaults(given: given)
        guard faults.isEmpty else { throw .invalid(group: "meta.k8s.io", kind: "ListOptions", faults) }
    }

    /// The revision; 0 where any will do.
    /// - Throws: 422 where it is no number.
    func revision() throws(Status) -> Int? {
        if resourceVersion.isEmpty { return nil }
        guard let revision = Int(resourceVersion), revision >= 0 else {
            throw .invalid(
                group: "", kind: "", name: "",
                [
                    Status.Cause(
                        type: "FieldValueInvalid",
                        message: "Invalid value: \"\(resourceVersion)\": invalid resource version",
                        field: "resourceVersion")
                ])
        }
        return revision
    }

    private func listFaults(given: String) -> [Status.Cause] {
        var faults: [Status.Cause] = []
        if !given.isEmpty {
            if resourceVersion.isEmpty {
                faults.append(
                    .forbidden(
                        "resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided"))
            }
            if !continueToken.isEmpty {
                faults.append(
                    .forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"))
            }
            if match == nil { faults.append(.unsupported(given, ["Exact", "NotOlderThan", ""])) }
            if match == .exact, resourceVersion == "0" {
                faults.append(
                    .forbidden(
                        "resourceVersionMatch",
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""))
            }
        }
        if sendsInitialEvents != nil {
            faults.append(.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"))
        }
        return faults
    }

    private func watchFaults(given: String, watchList: Bool) -> [Status.Cause] {
        var faults: [Status.Cause] = []
        if sendsInitialEvents != nil {
            if match != .notOlderThan {
                faults.append(
                    .forbidden(
                        "resourceVersionMatch",
                        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"))
            }
            if !watchList {
                faults.append(
                    .forbidden(
                        "sendInitialEvents",
                        "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"))
            }
        }
        if !given.isEmpty {
            if sendsInitialEvents == nil {
                faults.append(
                    .forbidden(
                        "resourceVersionMatch",
                        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"))
            }
            if match != .notOlderThan { faults.append(.unsupported(given, ["NotOlderThan"])) }
            if !continueToken.isEmpty {
                faults.append(
                    .forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"))
            }
        }
        return faults
    }

    /// As k8s.io/apimachinery/pkg/runtime/converter.go reads it: everything is true but `0` and `false`.
    private static func flag(_ text: String?) -> Bool? {
        text.map { $0 != "0" && $0.lowercased() != "false" }
    }

    private static func number(_ text: String?, _ name: String) throws(Status) -> Int? {
        guard let text, !text.isEmpty else { return nil }
        guard let number = Int(text) else {
            throw .badRequest("strconv.ParseInt: parsing \"\(text)\": invalid syntax (\(name))")
        }
        return number
    }
}

extension Status.Cause {
    fileprivate static func forbidden(_ field: String, _ detail: String) -> Status.Cause {
        Status.Cause(type: "FieldValueForbidden", message: "Forbidden: \(detail)", field: field)
    }

    fileprivate static func unsupported(_ value: String, _ known: [String]) -> Status.Cause {
        let list = known.map { "\"\($0)\"" }.joined(separator: ", ")
        return Status.Cause(
            type: "FieldValueNotSupported", message: "Unsupported value: \"\(value)\": supported values: \(list)",
            field: "resourceVersionMatch")
    }
}
