import FoundationEssentials
import KnetCore

/// How one type's Kubernetes JSON becomes its protobuf message.
struct ProtobufMessage: Sendable {
    enum FieldType: Sendable {
        case text, number, flag
        case textMap
        /// `metav1.Time`: RFC 3339 text in JSON, seconds and nanoseconds in protobuf.
        case time
        /// `intstr.IntOrString`: a number or a text in JSON.
        case intOrString
        /// `metav1.FieldsV1`: JSON of any shape, as text.
        case json
        case message(ProtobufMessage)
    }

    /// What Go's type of a field decides.
    enum Presence: Sendable {
        /// Always written, if only as "", 0, false or an empty message.
        case value
        /// A pointer: left out where it is nil.
        case pointer
        case repeated
    }

    struct Field: Sendable {
        let number: Int
        let name: String
        let type: FieldType
        let presence: Presence
    }

    let fields: [Field]

    /// The message of a JSON object; members without a field here are left out.
    func encode(_ value: JSONValue?) -> [UInt8] {
        var writer = ProtobufWriter(reserving: 256)
        for field in fields {
            let member = value?[field.name].flatMap { $0 == .null ? nil : $0 }
            switch field.presence {
            case .value: field.write(member, to: &writer)
            case .pointer: if member != nil { field.write(member, to: &writer) }
            case .repeated: for element in member?.array ?? [] { field.write(element, to: &writer) }
            }
        }
        return writer.bytes
    }
}

extension ProtobufMessage.Field {
    fileprivate func write(_ value: JSONValue?, to writer: inout ProtobufWriter) {
        switch type {
        case .text: writer.write(number, value?.string ?? "")
        case .number: writer.write(number, value?.integer ?? 0)
        case .flag: writer.write(number, value == .boolean(true) ? 1 : 0)
        case .textMap:
            for (key, text) in (value?.object ?? [:]).sorted(by: { $0.key < $1.key }) {
                var entry = ProtobufWriter()
                entry.write(1, key)
                entry.write(2, text.string ?? "")
                writer.write(number, entry.bytes)
            }
        case .time: writer.write(number, Self.time(value))
        case .intOrString: writer.write(number, Self.intOrString(value))
        case .json:
            var text = ProtobufWriter()
            text.write(1, JSONWriter.text(of: value ?? .null))
            writer.write(number, text.bytes)
        case .message(let message): writer.write(number, message.encode(value))
        }
    }

    private static func time(_ value: JSONValue?) -> [UInt8] {
        guard let text = value?.string, let date = try? Date(text, strategy: .iso8601) else { return [] }
        var writer = ProtobufWriter()
        writer.write(1, Int(date.timeIntervalSince1970))
        writer.write(2, 0)
        return writer.bytes
    }

    private static func intOrString(_ value: JSONValue?) -> [UInt8] {
        var writer = ProtobufWriter()
        writer.write(1, value?.string == nil ? 0 : 1)
        writer.write(2, value?.integer ?? 0)
        writer.write(3, value?.string ?? "")
        return writer.bytes
    }
}

extension ProtobufMessage {
    /// Reads message definitions: a line with a message's name, then a line for each field, indented: number, JSON name,
    /// type. Types are `string`, `int`, `bool`, `map`, `time`, `intOrString`, `json` or a message defined further up; `?` marks a
    /// pointer, `[]` what is repeated.
    static func parse(_ definitions: String) -> [String: ProtobufMessage] {
        var messages: [String: ProtobufMessage] = [:]
        var name = ""
        for line in definitions.split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count == 3, let number = Int(words[0]) else {
                name = String(line)
                messages[name] = ProtobufMessage(fields: [])
                continue
            }
            let type = words[2].trimmingSuffix(while: { "?[]".contains($0) })
            let presence: Presence =
                words[2].hasSuffix("?") ? .pointer : words[2].hasSuffix("[]") ? .repeated : .value
            let field = Field(
                number: number, name: String(words[1]), type: Self.type(named: type, in: messages), presence: presence)
            messages[name] = ProtobufMessage(fields: (messages[name]?.fields ?? []) + [field])
        }
        return messages
    }

    private static func type(named name: Substring, in messages: [String: ProtobufMessage]) -> FieldType {
        switch name {
        case "string": return .text
        case "int": return .number
        case "bool": return .flag
        case "map": return .textMap
        case "time": return .time
        case "intOrString": return .intOrString
        case "json": return .json
        default:
            guard let message = messages[String(name)] else { preconditionFailure("no message \(name) so far") }
            return .message(message)
        }
    }
}

extension Substring {
    fileprivate func trimmingSuffix(while predicate: (Character) -> Bool) -> Substring {
        var rest = self
        while let last = rest.last, predicate(last) { rest.removeLast() }
        return rest
    }
}
