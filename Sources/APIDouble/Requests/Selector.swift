import KnetCore

/// Which objects a request is about: those of a namespace, with fields and labels.
struct Selector: Sendable {
    fileprivate struct Term {
        let key: String
        /// `nil` asks whether there is such a key at all.
        let value: String?
        let isNegated: Bool
    }

    private let namespace: String
    private let fields: [Term]
    private let labels: [Term]

    /// Whether fields or labels narrow the collection down.
    var isEmpty: Bool { fields.isEmpty && labels.isEmpty }

    /// - Throws: 400 for a field that this resource cannot be selected by.
    init(path: ResourcePath, query: [String: String]) throws(Status) {
        namespace = path.namespace
        fields =
            try Self.terms(query["fieldSelector"] ?? "")
            + (path.name.isEmpty ? [] : [Term(key: "metadata.name", value: path.name, isNegated: false)])
        labels = try Self.terms(query["labelSelector"] ?? "")
        let known = ["metadata.name", "metadata.namespace"] + (Self.fieldsOf[path.resource.name] ?? [])
        for field in fields where !known.contains(field.key) {
            throw .badRequest("field label not supported: \(field.key)")
        }
    }

    private static let fieldsOf = [
        "pods": [
            "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
            "status.phase", "status.podIP", "status.nominatedNodeName",
        ],
        "nodes": ["spec.unschedulable"],
        "namespaces": ["status.phase"],
        "services": ["spec.clusterIP", "spec.type"],
    ]

    func matches(_ object: StoredObject) -> Bool {
        guard namespace.isEmpty || object.key.namespace == namespace else { return false }
        return fields.allSatisfy { $0.matches(Self.field($0.key, of: object)) }
            && labels.allSatisfy { $0.matches(object.json.at("metadata", "labels", $0.key)?.string) }
    }

    private static func field(_ path: String, of object: StoredObject) -> String {
        switch path {
        case "metadata.name": return object.key.name
        case "metadata.namespace": return object.key.namespace
        default:
            let value = path.split(separator: ".").reduce(Optional(object.json)) { $0?[String($1)] }
            switch value {
            case .string(let text): return text
            case .boolean(let flag): return "\(flag)"
            default: return ["spec.unschedulable", "spec.hostNetwork"].contains(path) ? "false" : ""
            }
        }
    }

    /// `a=b,c==d,e!=f,g,!h`.
    private static func terms(_ text: String) throws(Status) -> [Term] {
        var terms: [Term] = []
        for part in text.split(separator: ",").map(\.trimmingSpaces) {
            guard !part.contains("(") else { throw .badRequest("unable to parse requirement: \(part)") }
            if let sign = part.firstRange(of: "!=") {
                terms.append(
                    Term(
                        key: String(part[..<sign.lowerBound]), value: String(part[sign.upperBound...]), isNegated: true)
                )
            } else if let sign = part.firstRange(of: "==") ?? part.firstRange(of: "=") {
                terms.append(
                    Term(
                        key: String(part[..<sign.lowerBound]), value: String(part[sign.upperBound...]),
                        isNegated: false))
            } else {
                terms.append(
                    Term(key: String(part.drop { $0 == "!" }), value: nil, isNegated: part.hasPrefix("!")))
            }
        }
        return terms
    }
}

extension Selector.Term {
    fileprivate func matches(_ found: String?) -> Bool {
        (value == nil ? found != nil : found == value) != isNegated
    }
}
