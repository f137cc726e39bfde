/// Strings and label sets that many objects have alike are kept once: of 50,000 endpoints most name one of a thousand nodes.
struct SharedValues {
    private var strings: Set<String> = []
    private var maps: Set<[String: String]> = []

    /// Beyond so many, sharing starts anew: what objects hold already stays shared among them.
    private static let limit = 50_000
    /// Bytes of UTF-8 that a string holds without memory of its own.
    private static let inlineLength = 15

    mutating func share(_ string: String) -> String {
        guard string.utf8.count > Self.inlineLength else { return string }
        if strings.count >= Self.limit { strings = [] }
        return strings.insert(string).memberAfterInsert
    }

    /// - Returns: `nil` for an empty map.
    mutating func share(_ map: [String: String]) -> [String: String]? {
        guard !map.isEmpty else { return nil }
        if maps.count >= Self.limit { maps = [] }
        if let index = maps.firstIndex(of: map) { return maps[index] }
        var shared: [String: String] = Dictionary(minimumCapacity: map.count)
        for (key, value) in map { shared[share(key)] = share(value) }
        maps.insert(shared)
        return shared
    }
}
