import KnetCore

/// Writes JSON values as text with sorted keys, much faster than through `Encodable`.
struct JSONWriter {
    private(set) var bytes: [UInt8] = []

    static func text(of value: JSONValue) -> [UInt8] {
        var writer = JSONWriter()
        writer.write(value)
        return writer.bytes
    }

    mutating func write(_ value: JSONValue) {
        switch value {
        case .null: write("null")
        case .boolean(let flag): write(flag ? "true" : "false")
        case .integer(let number): write("\(number)")
        case .number(let number): write("\(number)")
        case .string(let text): writeQuoted(text)
        case .array(let elements):
            write("[")
            for (index, element) in elements.enumerated() {
                if index > 0 { write(",") }
                write(element)
            }
            write("]")
        case .object(let members):
            write("{")
            for (index, member) in members.sorted(by: { $0.key < $1.key }).enumerated() {
                if index > 0 { write(",") }
                writeQuoted(member.key)
                write(":")
                write(member.value)
            }
            write("}")
        }
    }

    private mutating func write(_ text: String) { bytes.append(contentsOf: text.utf8) }

    private mutating func writeQuoted(_ text: String) {
        bytes.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                bytes.append(UInt8(ascii: "\\"))
                bytes.append(byte)
            case 0..<0x20: write("\\u00" + (byte < 16 ? "0" : "") + String(byte, radix: 16))
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }
}
