/// Writes protobuf's wire format (https://protobuf.dev/programming-guides/encoding/).
struct ProtobufWriter {
    private(set) var bytes: [UInt8] = []

    init(reserving size: Int = 0) { bytes.reserveCapacity(size) }

    mutating func write(_ field: Int, _ number: Int) {
        varint(UInt64(field) << 3)
        varint(UInt64(bitPattern: Int64(number)))
    }

    mutating func write(_ field: Int, _ text: String) {
        start(field, length: text.utf8.count)
        bytes.append(contentsOf: text.utf8)
    }

    mutating func write(_ field: Int, _ content: [UInt8]) {
        start(field, length: content.count)
        bytes.append(contentsOf: content)
    }

    /// A field of `length` bytes that are written, or sent, after this.
    mutating func start(_ field: Int, length: Int) {
        varint(UInt64(field) << 3 | 2)
        varint(UInt64(length))
    }

    mutating func append(raw: [UInt8]) { bytes.append(contentsOf: raw) }

    private mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }
}
