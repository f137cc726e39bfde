/// Finds where a text stops being JSON (RFC 8259), for the message: the decoder does not tell. Also finds members that
/// stand twice in one object, of which a decoder silently takes one.
struct JSONSyntax {
    private let bytes: [UInt8]
    private var position = 0

    private static let deepest = 200

    /// What is wrong with `text` and where; `nil` where nothing is.
    static func fault(in text: some Sequence<UInt8>) -> String? {
        var scanner = JSONSyntax(bytes: Array(text))
        do throws(Fault) {
            try scanner.value(depth: 0)
            scanner.skipSpace()
            if scanner.position < scanner.bytes.count { throw scanner.unexpected("the end") }
            return nil
        } catch {
            return error.description
        }
    }

    private init(bytes: [UInt8]) { self.bytes = bytes }

    private struct Fault: Error {
        let description: String
    }

    private mutating func value(depth: Int) throws(Fault) {
        guard depth < Self.deepest else { throw Fault(description: "more than \(Self.deepest) levels deep, \(place)") }
        skipSpace()
        switch peek {
        case UInt8(ascii: "{"): try object(depth: depth)
        case UInt8(ascii: "["): try array(depth: depth)
        case UInt8(ascii: "\""): _ = try string()
        case UInt8(ascii: "t"): try word("true")
        case UInt8(ascii: "f"): try word("false")
        case UInt8(ascii: "n"): try word("null")
        case let byte? where "-0123456789".utf8.contains(byte):
            while let byte = peek, "+-.eE0123456789".utf8.contains(byte) { position += 1 }
        default: throw unexpected("a value")
        }
    }

    private mutating func object(depth: Int) throws(Fault) {
        position += 1
        var names: Set<String> = []
        skipSpace()
        if take("}") { return }
        while true {
            skipSpace()
            guard peek == UInt8(ascii: "\"") else { throw unexpected("a key in double quotes") }
            let start = position
            let name = try string()
            guard names.insert(name).inserted else {
                throw Fault(description: "the key \"\(name)\" stands twice, \(place(of: start))")
            }
            skipSpace()
            guard take(":") else { throw unexpected("\":\"") }
            try value(depth: depth + 1)
            skipSpace()
            if take("}") { return }
            guard take(",") else { throw unexpected("\",\" or \"}\"") }
        }
    }

    private mutating func array(depth: Int) throws(Fault) {
        position += 1
        skipSpace()
        if take("]") { return }
        while true {
            try value(depth: depth + 1)
            skipSpace()
            if take("]") { return }
            guard take(",") else { throw unexpected("\",\" or \"]\"") }
        }
    }

    private mutating func string() throws(Fault) -> String {
        position += 1
        let start = position
        while let byte = peek, byte != UInt8(ascii: "\"") {
            guard byte >= 0x20 else { throw Fault(description: "a control character inside a string, \(place)") }
            position += byte == UInt8(ascii: "\\") ? 2 : 1
        }
        guard position < bytes.count else { throw unexpected("the string's closing quote") }
        defer { position += 1 }
        return String(decoding: bytes[start..<position], as: UTF8.self)
    }

    private mutating func word(_ word: String) throws(Fault) {
        for byte in word.utf8 {
            guard peek == byte else { throw unexpected("\"\(word)\"") }
            position += 1
        }
    }

    private var peek: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func take(_ character: Unicode.Scalar) -> Bool {
        guard peek == UInt8(ascii: character) else { return false }
        position += 1
        return true
    }

    private mutating func skipSpace() {
        while let byte = peek, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
    }

    private func unexpected(_ wanted: String) -> Fault {
        let found = peek.map { "\"\(Character(Unicode.Scalar($0)))\"" } ?? "the end of the text"
        return Fault(description: "found \(found) instead of \(wanted), \(place)")
    }

    private var place: String { place(of: position) }

    private func place(of position: Int) -> String {
        let before = bytes.prefix(position)
        let line = before.count { $0 == 0x0A } + 1
        let column = before.reversed().prefix { $0 != 0x0A }.count + 1
        return "line \(line), column \(column)"
    }
}
