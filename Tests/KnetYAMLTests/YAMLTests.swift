import FoundationEssentials
import KnetCore
import KnetYAML
import Testing

@Suite struct YAMLTests {
    private func read(_ text: String) -> YAMLDocuments { YAMLDocuments(parsing: Data(text.utf8)) }

    /// The value of a text with one document.
    private func value(_ text: String) throws -> JSONValue {
        let documents = read(text)
        if let error = documents.error { throw error }
        return try #require(documents.values.first)
    }

    @Test(
        arguments: [
            ("", .null), ("~", .null), ("null", .null), ("Null", .null), ("NULL", .null), ("nULL", .string("nULL")),
            ("true", .boolean(true)), ("True", .boolean(true)), ("yes", .boolean(true)), ("ON", .boolean(true)),
            ("false", .boolean(false)), ("FALSE", .boolean(false)), ("No", .boolean(false)), ("off", .boolean(false)),
            ("y", .string("y")), ("n", .string("n")), ("yEs", .string("yEs")),
            ("0", .integer(0)), ("42", .integer(42)), ("-7", .integer(-7)), ("+7", .integer(7)),
            ("1_000", .integer(1000)), ("0x1F", .integer(31)), ("-0x1f", .integer(-31)), ("0o17", .integer(15)),
            ("017", .integer(15)), ("0b101", .integer(5)), ("9223372036854775807", .integer(.max)),
            ("-9223372036854775808", .integer(.min)), ("9223372036854775808", .number(9_223_372_036_854_775_808)),
            ("1.5", .number(1.5)), ("-.5", .number(-0.5)), ("1.", .number(1)), ("1e3", .number(1000)),
            ("6.02E+23", .number(6.02e23)), ("08", .number(8)), (".inf", .number(.infinity)),
            ("-.INF", .number(-.infinity)),
            ("0xZZ", .string("0xZZ")), ("0x-5", .string("0x-5")), ("--", .string("--")), ("+-5", .string("+-5")),
            (".", .string(".")), ("1e", .string("1e")), ("_1", .string("_1")), ("inf", .string("inf")),
            ("+infinity", .string("+infinity")), ("nan", .string("nan")), ("0x1p3", .string("0x1p3")),
            ("1.2.3", .string("1.2.3")), ("10.42.1.0/24", .string("10.42.1.0/24")), ("v1", .string("v1")),
            ("12:30", .string("12:30")), ("1:2:3:4:5:6:7:8", .string("1:2:3:4:5:6:7:8")),
            ("2026-01-01", .string("2026-01-01")), ("=", .string("=")), ("<<", .string("<<")),
        ] as [(String, JSONValue)])
    func aBareWordIsWhatKubernetesTakesItFor(text: String, expected: JSONValue) throws {
        #expect(try value("- \(text)\n") == .array([expected]))
    }

    @Test(
        arguments: [
            #"'true'"#, #""null""#, "'42'", "\"0x1F\"", "''", "!!str 42", "!!str ~", "|-\n  1.5", ">-\n  ~",
        ])
    func whatIsQuotedOrSaidToBeTextIsText(text: String) throws {
        guard case .array(let elements) = try value("- \(text)\n") else { return }
        #expect(elements.first?.string != nil, "\(elements)")
    }

    @Test func aNumberThatIsNone() throws {
        guard case .number(let number)? = try value("[.NaN]").array?.first else {
            Issue.record("no number")
            return
        }
        #expect(number.isNaN)
    }

    @Test func textsKeepTheirLinesAndSigns() throws {
        #expect(
            try value("a: |\n  x\n  y\nb: >\n  x\n  y\nc: \"\\u00e4\\n\\0\"") == [
                "a": "x\ny\n", "b": "x y\n", "c": "\u{e4}\n\0",
            ])
        #expect(try value("\u{FEFF}ключ: 値") == ["ключ": "値"])
    }

    @Test func aTextMayHoldManyDocuments() {
        #expect(read("a: 1\n---\n# nothing\n---\n[x]\n...\n").values == [["a": 1], .null, ["x"]])
        #expect(read("").values.isEmpty)
        #expect(read("# nothing\n").values.isEmpty)
        #expect(read("\n---\n").values == [.null])
    }

    @Test func jsonIsYAML() throws {
        #expect(
            try value(#"{"a": [1, 2.5, "x", null, true], "b": {}}"#) == [
                "a": [1, .number(2.5), "x", .null, true], "b": [:],
            ])
    }

    @Test func keysStayAsTheyAreWritten() throws {
        #expect(try value("yes: 1\n8: 2\n~: 3\n") == ["yes": 1, "8": 2, "~": 3])
    }

    @Test func anAliasStandsForWhatItsAnchorHas() throws {
        #expect(
            try value("a: &x {k: [1]}\nb: *x\nc: [*x, &x 2, *x]\n&y d: *x\ne: {*y : *y}")
                == ["a": ["k": [1]], "b": ["k": [1]], "c": [["k": [1]], 2, 2], "d": 2, "e": ["d": "d"]])
    }

    @Test func aMergeKeyBringsInWhatIsNotThere() throws {
        let text = """
            base: &base {a: 1, b: 2}
            more: &more {b: 3, c: 4}
            one: {<<: *base, b: 5}
            two: {b: 6, <<: [*more, *base]}
            "<<": text
            """
        let merged = try value(text)
        #expect(merged["one"] == ["a": 1, "b": 5])
        #expect(merged["two"] == ["a": 1, "b": 6, "c": 4])
        #expect(merged["<<"] == "text")
    }

    @Test(
        arguments: [
            ("a: [1, 2", 2, 1, "expected ',' or ']'"),
            ("a: 1\n b: 2\n", 2, 3, "mapping values are not allowed in this context"),
            ("\tkind: Node", 1, 1, "cannot start any token"),
            ("a: 'x\n", 2, 1, "found unexpected end of stream"),
            ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, 3, "the key \"c\" stands twice"),
            ("{1: a, \"1\": b}", 1, 8, "the key \"1\" stands twice"),
            ("a: {<<: {}, <<: {}}", 1, 13, "the key \"<<\" stands twice"),
            ("a: {<<: 1}", 1, 9, "wants a mapping"),
            ("a: *b\n", 1, 4, "no anchor &b"),
            ("a: &a [*a]\n", 1, 8, "no anchor &a"),
            ("? [a]\n: b\n", 1, 3, "a key that is a list"),
            ("a: &n [1]\n*n : 2\n", 2, 1, "stands for no text"),
            ("a: x\nb: \u{1}\n", 2, 4, "control characters are not allowed"),
            ("%YAML 3.0\n---\na", 1, 1, "found incompatible YAML document"),
        ])
    func anErrorHasItsPlace(text: String, line: Int, column: Int, words: String) {
        let error = read(text).error
        #expect(error?.line == line && error?.column == column, "\(String(describing: error))")
        #expect(error?.description.contains(words) == true, "\(String(describing: error))")
    }

    @Test func anErrorLeavesWhatCameBefore() {
        let documents = read("a: 1\n---\n- b\n---\n- [\n---\nc: 1")
        #expect(documents.values == [["a": 1], ["b"]])
        #expect(documents.error?.line == 6)
    }

    @Test func bytesThatAreNoTextAreRefused() {
        let documents = YAMLDocuments(parsing: Data([0x61, 0x3A, 0x0A, 0x20, 0x62, 0x3A, 0x20, 0xFF, 0x0A]))
        #expect(documents.error.map { "\($0)" } == "not valid YAML: invalid leading UTF-8 octet, line 2, column 5")
    }

    @Test func anAnchorEndsWithItsDocument() {
        #expect(read("&a x\n---\n*a\n").error?.line == 3)
    }

    @Test(.timeLimit(.minutes(1))) func aBombOfAliasesIsRefused() {
        var text = "a0: &a0 [x]\n"
        for level in 1...30 {
            text += "a\(level): &a\(level) [\(Array(repeating: "*a\(level - 1)", count: 9).joined(separator: ", "))]\n"
        }
        #expect(read(text).error?.reason.contains("more than two million values") == true)
        #expect(read(text.replacing("]\n", with: ", {<<: {}}]\n")).error != nil)
    }

    @Test func thereAreAsManyLevelsAsInJSON() {
        #expect(read(String(repeating: "[", count: 200) + String(repeating: "]", count: 200)).error == nil)
        #expect(read(String(repeating: "[", count: 100_000)).error?.reason.contains("200 levels") == true)
        let chain = (1...300).reduce("a0: &a0 []\n") { "\($0)a\($1): &a\($1) [*a\($1 - 1)]\n" }
        #expect(read(chain).error?.reason.contains("200 levels") == true)
    }
}
