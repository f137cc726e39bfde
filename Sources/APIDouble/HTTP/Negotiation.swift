/// Chooses the encoding by the `Accept` header (RFC 9110, 12.5.1), as the API server does.
enum Negotiation {
    static func format(accept: String?, for resource: Resource) throws(Status) -> Format {
        let offered: [Format] = resource.isCustom ? [.json] : [.json, .protobuf]
        guard let accept, !accept.isEmpty else { return .json }
        for range in ranges(accept) {
            // Tables and partial objects are other kinds, which this server does not make.
            guard range.parameters["as"] == nil else { continue }
            if let format = offered.first(where: { range.matches($0.contentType) }) { return format }
        }
        throw .notAcceptable(offered.map(\.contentType))
    }

    /// In which encoding an error is told: JSON where nothing better is agreed.
    static func errorFormat(accept: String?) -> Format {
        (try? format(accept: accept, for: .pods)) ?? .json
    }

    private struct Range {
        let type: Substring
        let parameters: [Substring: Substring]
        let quality: Double

        func matches(_ contentType: String) -> Bool {
            type == "*/*" || type == contentType || type == "application/*"
        }
    }

    /// Best first; equal ones in the header's order.
    private static func ranges(_ accept: String) -> [Range] {
        let ranges = accept.split(separator: ",").map { part in
            let pieces = part.split(separator: ";").map { $0.trimmingSpaces }
            var parameters: [Substring: Substring] = [:]
            for piece in pieces.dropFirst() {
                let pair = piece.split(separator: "=", maxSplits: 1)
                if pair.count == 2 { parameters[pair[0]] = pair[1] }
            }
            return Range(
                type: pieces.first ?? "", parameters: parameters,
                quality: parameters["q"].flatMap { Double($0) } ?? 1)
        }
        let ordered = ranges.enumerated().sorted {
            ($0.element.quality, -$0.offset) > ($1.element.quality, -$1.offset)
        }
        return ordered.map(\.element).filter { $0.quality > 0 }
    }
}

extension Substring {
    /// Without spaces at either end.
    var trimmingSpaces: Substring {
        let rest = drop { $0 == " " }
        guard let last = rest.lastIndex(where: { $0 != " " }) else { return "" }
        return rest[...last]
    }
}
