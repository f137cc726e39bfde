extension Shape {
    /// This shape as JSON Schema, draft 2020-12. It accepts what `normalise` accepts, but for what a schema cannot
    /// say: host bits of a CIDR and ranges that overlap.
    public var schema: JSONValue {
        switch self {
        case .boolean: ["type": "boolean"]
        case .integer(let range):
            ["type": "integer", "minimum": .integer(range.lowerBound), "maximum": .integer(range.upperBound)]
        case .text(let format): .object(["type": "string"].merging(format.schema) { $1 })
        case .list(let element, let minimum):
            ["type": "array", "items": element.schema, "minItems": .integer(minimum)]
        case .object(let fields):
            [
                "type": "object", "additionalProperties": false,
                "properties": .object(
                    Dictionary(uniqueKeysWithValues: fields.map { ($0.name, $0.schema) })),
                "required": .array(fields.filter(\.isRequired).map { .string($0.name) }),
            ]
        case .map(let element): ["type": "object", "additionalProperties": element.schema]
        case .either(let shapes): ["anyOf": .array(shapes.map(\.schema))]
        }
    }
}

extension Field {
    var schema: JSONValue {
        var members = shape.schema.object ?? [:]
        members["description"] = .string(summary)
        members["default"] = fallback
        return .object(members)
    }
}

extension TextFormat {
    fileprivate var schema: [String: JSONValue] {
        switch self {
        case .any, .readable: ["minLength": 1]
        case .oneOf(let words): ["enum": .array(words.map(JSONValue.string))]
        case .cidr:
            [
                "pattern": .string(
                    "^(\(Self.ipv4)/([0-9]|[12][0-9]|3[0-2])|\(Self.ipv6)/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))$")
            ]
        case .ipAddress: ["pattern": .string("^(\(Self.ipv4)|\(Self.ipv6))$")]
        case .endpoint: ["pattern": .string("^(\(Self.ipv4)|\\[\(Self.ipv6)\\]):[0-9]{1,5}$")]
        case .absolutePath: ["pattern": "^/"]
        case .serverURL: ["pattern": "^https?://[^ /?#@]+(/[^ ?#]*)?$"]
        case .interfaceName: ["pattern": "^[^/:\\s]{1,15}$"]
        }
    }

    private static let octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
    private static let ipv4 = "\(octet)(\\.\(octet)){3}"
    private static let ipv6 = "[0-9a-fA-F.]*:[0-9a-fA-F:.]*"
}

// Literals keep the schema readable.
extension JSONValue: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByBooleanLiteral,
    ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
    public init(stringLiteral value: String) { self = .string(value) }
    public init(integerLiteral value: Int) { self = .integer(value) }
    public init(booleanLiteral value: Bool) { self = .boolean(value) }
    public init(arrayLiteral elements: JSONValue...) { self = .array(elements) }
    public init(dictionaryLiteral elements: (String, JSONValue)...) {
        self = .object(Dictionary(elements) { _, last in last })
    }
}
