import Testing

@testable import DNSPlugin

/// Bytes of queries, right and wrong.
@Suite struct QueryTests {
    /// Reads a message as a server does.
    private func read(_ bytes: [UInt8]) -> (Query.Reading, name: [UInt8]) {
        var name = [UInt8](repeating: 0xFF, count: 256)
        let reading = bytes.withUnsafeBytes { message in name.withUnsafeMutableBytes { Query.read(message, name: $0) } }
        return (reading, name)
    }

    private static func query(
        flags: UInt16 = 0x0100, counts: [UInt16] = [1, 0, 0, 0], name: [UInt8] = [3] + Array("WwW".utf8) + [0],
        type: UInt16 = 1, rest: [UInt8] = []
    ) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(short: 0x1234)
        bytes.append(short: flags)
        for count in counts { bytes.append(short: count) }
        bytes += name
        bytes.append(short: type)
        bytes.append(short: 1)
        return bytes + rest
    }

    @Test func aQuestionIsReadInSmallLetters() throws {
        let (reading, name) = read(Self.query(type: 28))
        guard case .query(let query) = reading else {
            Issue.record("\(reading)")
            return
        }
        #expect(query.type == 28 && query.isInternet && query.edns == nil)
        #expect(Array(name[..<query.nameLength]) == [3] + Array("www".utf8) + [0])
        #expect(query.questionEnd == 12 + 5 + 4)
    }

    @Test func whatEDNSSaysIsRead() throws {
        let options: [UInt8] = [0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 4, 0, 10, 0, 0]
        let (reading, _) = read(Self.query(counts: [1, 0, 0, 1], rest: options))
        guard case .query(let query) = reading else {
            Issue.record("\(reading)")
            return
        }
        #expect(query.edns?.payload == 4096 && query.edns?.version == 0 && query.edns?.wantsSignatures == true)
    }

    enum Expected { case nothing, formatError, notImplemented }

    static let wrong: [(what: String, bytes: [UInt8], Expected)] = [
        ("nothing", [], .nothing),
        ("half a header", Array(query().prefix(11)), .nothing),
        ("an answer", query(flags: 0x8180), .nothing),
        ("another operation", query(flags: 0x2800), .notImplemented),
        ("no question", query(counts: [0, 0, 0, 0]), .formatError),
        ("two questions", query(counts: [2, 0, 0, 0]), .formatError),
        ("an answer in it", query(counts: [1, 1, 0, 0]), .formatError),
        ("a name without an end", query(name: [63]), .formatError),
        ("a name that is compressed", query(name: [0xC0, 12]), .formatError),
        ("a label of 64 bytes", query(name: [64] + [UInt8](repeating: 97, count: 64) + [0]), .formatError),
        (
            "a name of 256 bytes", query(name: (0..<4).flatMap { _ in [63] + [UInt8](repeating: 97, count: 63) } + [0]),
            .formatError
        ),
        ("no type", Array(query().prefix(18)), .formatError),
        ("fewer records than it says", query(counts: [1, 0, 0, 1]), .formatError),
        ("EDNS twice", query(counts: [1, 0, 0, 2], rest: edns + edns), .formatError),
        ("EDNS of a name", query(counts: [1, 0, 0, 1], rest: [1, 97] + edns), .formatError),
        (
            "EDNS that is too short", query(counts: [1, 0, 0, 1], rest: [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4]),
            .formatError
        ),
    ]
    private static let edns: [UInt8] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]

    @Test(arguments: wrong) func whatIsNoQueryIsToldSo(what: String, bytes: [UInt8], expected: Expected) {
        switch (read(bytes).0, expected) {
        case (.nothing, .nothing), (.failed(.formatError, _), .formatError),
            (.failed(.notImplemented, _), .notImplemented):
            break
        case (let reading, _): Issue.record("\(what): \(reading)")
        }
    }

    @Test func theLongestNameIsRead() throws {
        let name =
            (0..<3).flatMap { _ in [63] + [UInt8](repeating: 97, count: 63) } + [61] + [UInt8](repeating: 97, count: 61)
            + [0]
        guard case .query(let query) = read(Self.query(name: name)).0 else {
            Issue.record("refused")
            return
        }
        #expect(query.nameLength == 255)
    }
}
