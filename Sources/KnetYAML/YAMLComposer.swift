import KnetCore

/// Makes values of events.
struct YAMLComposer: ~Copyable {
    /// A value with what it adds to a text that repeats it by an alias.
    private struct Node {
        var value: JSONValue
        /// Values in it, itself counted.
        var count = 1
        /// Levels below it.
        var height = 0

        mutating func hold(_ child: Node) {
            count += child.count
            height = max(height, child.height + 1)
        }
    }

    /// Values that one text may have once its aliases are written out.
    private static let mostValues = 2_000_000
    private static let deepest = 200

    private var parser: YAMLParser
    private var anchors: [String: Node] = [:]
    private var count = 0

    init(_ text: UnsafeBufferPointer<UInt8>) { parser = YAMLParser(text) }

    /// The next document; `nil` at the end of the text.
    mutating func document() throws(YAMLError) -> JSONValue? {
        guard case .documentStart = try parser.next().event else { return nil }
        anchors = [:]
        let (event, place) = try parser.next()
        let node = try node(event, place, depth: 0)
        _ = try parser.next()
        return node.value
    }

    private mutating func node(_ event: YAMLEvent, _ place: YAMLPlace, depth: Int) throws(YAMLError) -> Node {
        guard depth < Self.deepest else { throw place.error("more than \(Self.deepest) levels deep") }
        try countValues(1, place)
        switch event {
        case .scalar(let text, let isPlain, let anchor):
            return remember(Node(value: isPlain ? YAMLScalar.value(of: text) : .string(text)), anchor)
        case .sequenceStart(let anchor): return remember(try sequence(depth: depth), anchor)
        case .mappingStart(let anchor): return remember(try mapping(depth: depth), anchor)
        case .alias(let name):
            guard let node = anchors[name] else { throw place.error("no anchor &\(name) stands before the alias") }
            guard depth + node.height < Self.deepest else {
                throw place.error("more than \(Self.deepest) levels deep")
            }
            try countValues(node.count - 1, place)
            return node
        case .documentStart, .end, .streamEnd: throw place.error("a value is missing")
        }
    }

    private mutating func remember(_ node: Node, _ anchor: String?) -> Node {
        if let anchor { anchors[anchor] = node }
        return node
    }

    private mutating func countValues(_ more: Int, _ place: YAMLPlace) throws(YAMLError) {
        count += more
        guard count < Self.mostValues else {
            throw place.error("more than two million values; split it, or mind its aliases")
        }
    }

    private mutating func sequence(depth: Int) throws(YAMLError) -> Node {
        var elements: [JSONValue] = []
        var node = Node(value: .null)
        while true {
            let (event, place) = try parser.next()
            if case .end = event {
                node.value = .array(elements)
                return node
            }
            let element = try self.node(event, place, depth: depth + 1)
            node.hold(element)
            elements.append(element.value)
        }
    }

    private mutating func mapping(depth: Int) throws(YAMLError) -> Node {
        var members: [String: JSONValue] = [:]
        var merged: [String: JSONValue]?
        var node = Node(value: .null)
        while true {
            let (event, place) = try parser.next()
            if case .end = event { break }
            let (key, isMerge) = try key(event, place)
            let (valueEvent, valuePlace) = try parser.next()
            let member = try self.node(valueEvent, valuePlace, depth: depth + 1)
            node.hold(member)
            guard isMerge ? merged == nil : members[key] == nil else {
                throw place.error("the key \"\(key)\" stands twice")
            }
            if isMerge { merged = try sources(member.value, valuePlace) } else { members[key] = member.value }
        }
        if let merged { members.merge(merged) { own, _ in own } }
        node.value = .object(members)
        return node
    }

    /// - Returns: a key, as it is written, and whether it is the merge key (https://yaml.org/type/merge.html).
    private mutating func key(_ event: YAMLEvent, _ place: YAMLPlace) throws(YAMLError) -> (String, isMerge: Bool) {
        switch event {
        case .scalar(let text, let isPlain, let anchor):
            _ = remember(Node(value: .string(text)), anchor)
            return (text, isPlain && text == "<<")
        case .alias(let name):
            if case .string(let text)? = anchors[name]?.value { return (text, false) }
            throw place.error("the alias *\(name) stands for no text, as a key must be")
        default: throw place.error("a key that is a list or a mapping")
        }
    }

    /// What a merge key brings in: of one mapping, or of several, of which the first counts.
    private func sources(_ value: JSONValue, _ place: YAMLPlace) throws(YAMLError) -> [String: JSONValue] {
        var members: [String: JSONValue] = [:]
        for source in value.array ?? [value] {
            guard let more = source.object else {
                throw place.error("the key \"<<\" wants a mapping or a list of them")
            }
            members.merge(more) { first, _ in first }
        }
        return members
    }
}
