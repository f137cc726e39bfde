/// A request's path and parameters.
struct Target {
    let path: [String]
    /// Of parameters that come more than once, the first.
    let query: [String: String]

    init(uri: String) {
        let halves = uri.split(separator: "?", maxSplits: 1)
        path = (halves.first ?? "").split(separator: "/").map(Self.decoded)
        var query: [String: String] = [:]
        for item in (halves.dropFirst().first ?? "").split(separator: "&") {
            let pair = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let name = Self.decoded(pair[0])
            if query[name] == nil { query[name] = pair.count == 2 ? Self.decoded(pair[1]) : "" }
        }
        self.query = query
    }

    /// Without percent signs (RFC 3986, 2.1) and plus signs for spaces.
    private static func decoded(_ text: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            switch byte {
            case UInt8(ascii: "+"): bytes.append(UInt8(ascii: " "))
            case UInt8(ascii: "%"):
                guard let value = UInt8(Substring(rest.prefix(2)), radix: 16) else { return String(text) }
                bytes.append(value)
                rest = rest.dropFirst(2)
            default: bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
