import NIOCore

/// In which encoding a client wants its answers.
enum Format: Sendable {
    case json
    case protobuf

    /// What stands before every protobuf message.
    private static let magic = Array("k8s\0".utf8)

    var contentType: String {
        switch self {
        case .json: "application/json"
        case .protobuf: "application/vnd.kubernetes.protobuf"
        }
    }

    var watchContentType: String {
        switch self {
        case .json: "application/json"
        case .protobuf: "application/vnd.kubernetes.protobuf;stream=watch"
        }
    }

    /// An object as it stands alone; JSON without the line's end that an answer has.
    func encode(_ object: StoredObject) -> [UInt8] {
        switch self {
        case .json: object.jsonText
        case .protobuf: Self.envelope(object.resource.apiVersion, object.resource.kind, object.message)
        }
    }

    func encode(_ status: Status) -> [UInt8] {
        switch self {
        case .json: JSONWriter.text(of: status.json)
        case .protobuf: Self.envelope("v1", "Status", ProtobufMessage.ofKind["Status"]?.encode(status.json) ?? [])
        }
    }

    /// One frame of a watch: a line of JSON, or length and message.
    /// - Parameter object: encoded in this format.
    func frame(_ type: String, _ object: [UInt8]) -> ByteBuffer {
        var buffer = ByteBuffer()
        buffer.reserveCapacity(object.count + 64)
        switch self {
        case .json:
            buffer.writeString("{\"type\":\"\(type)\",\"object\":")
            buffer.writeBytes(object)
            buffer.writeString("}\n")
        case .protobuf:
            var rawExtension = ProtobufWriter(reserving: object.count + 8)
            rawExtension.write(1, object)
            var event = ProtobufWriter(reserving: object.count + 32)
            event.write(1, type)
            event.write(2, rawExtension.bytes)
            buffer.writeInteger(UInt32(event.bytes.count))
            buffer.writeBytes(event.bytes)
        }
        return buffer
    }

    /// A frame that is no event: with broken content (0), or no frame at all (1).
    func garbage(_ variant: Int) -> ByteBuffer {
        switch (self, variant) {
        case (.json, 0): return ByteBuffer(string: "{\"type\":\"MODIFIED\",\"object\":{\"kind\":\n")
        case (.json, _): return ByteBuffer(string: "<html><body>502 Bad Gateway</body></html>\n")
        case (.protobuf, 0):
            var buffer = ByteBuffer(integer: UInt32(16))
            buffer.writeRepeatingByte(0xFF, count: 16)
            return buffer
        case (.protobuf, _): return ByteBuffer(repeating: 0xFF, count: 16)
        }
    }

    /// `runtime.Unknown` around a message.
    static func envelope(_ apiVersion: String, _ kind: String, _ message: [UInt8]) -> [UInt8] {
        var writer = envelopeHead(apiVersion, kind, length: message.count)
        writer.append(raw: message)
        writer.append(raw: envelopeTail)
        return writer.bytes
    }

    /// What stands before a message of `length` bytes.
    static func envelopeHead(_ apiVersion: String, _ kind: String, length: Int) -> ProtobufWriter {
        var type = ProtobufWriter()
        type.write(1, apiVersion)
        type.write(2, kind)
        var writer = ProtobufWriter(reserving: length + 64)
        writer.append(raw: magic)
        writer.write(1, type.bytes)
        writer.start(2, length: length)
        return writer
    }

    /// What follows it: `contentEncoding` and `contentType`, both empty.
    static let envelopeTail: [UInt8] = [0x1A, 0, 0x22, 0]
}
