import FoundationEssentials
import KnetCore
import NIOCore
import SwiftProtobuf

/// The API's protobuf framing (https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding-idl).
enum Envelope {
    private static let magic: [UInt8] = Array("k8s\0".utf8)

    static let options: BinaryDecodingOptions = {
        var options = BinaryDecodingOptions()
        options.discardUnknownFields = true
        return options
    }()

    /// Opens an envelope.
    static func open(_ bytes: some SwiftProtobufContiguousBytes & Collection<UInt8>) throws -> WireUnknown {
        guard bytes.starts(with: magic) else { throw NotAnEnvelope() }
        return try WireUnknown(serializedBytes: Data(bytes.dropFirst(magic.count)), options: options)
    }

    static func open(_ buffer: ByteBuffer) throws -> WireUnknown {
        try open(Array(buffer.readableBytesView))
    }

    struct NotAnEnvelope: Error, CustomStringConvertible {
        var description: String { "not an object in protobuf" }
    }
}

/// An error's `Status` object.
struct StatusMessage {
    let message: String
    let reason: String
    let code: Int
    let retryAfter: Int?

    /// `nil` where the body is no Status.
    init?(_ body: ByteBuffer, isProtobuf: Bool) {
        if isProtobuf {
            guard let envelope = try? Envelope.open(body), let status = try? Self.wire(envelope) else { return nil }
            self.init(status)
        } else {
            guard let value = try? JSONValue(parsing: Data(body.readableBytesView)), value.object != nil else {
                // A proxy's page, or Go's own words.
                guard let text = String(buffer: body).prefix(200).description.nonEmpty else { return nil }
                self.init(message: text, reason: "", code: 0, retryAfter: nil)
                return
            }
            self.init(value)
        }
    }

    static func wire(_ envelope: WireUnknown) throws -> WireStatus {
        try WireStatus(serializedBytes: envelope.raw, options: Envelope.options)
    }

    init(_ wire: WireStatus) {
        self.init(
            message: wire.message, reason: wire.reason, code: Int(wire.code),
            retryAfter: wire.details.hasRetryAfterSeconds && wire.details.retryAfterSeconds > 0
                ? Int(wire.details.retryAfterSeconds) : nil)
    }

    init(_ value: JSONValue) {
        self.init(
            message: value["message"]?.string ?? "", reason: value["reason"]?.string ?? "",
            code: value["code"]?.integer ?? 0, retryAfter: value["details"]?["retryAfterSeconds"]?.integer)
    }

    private init(message: String, reason: String, code: Int, retryAfter: Int?) {
        self.message = message.trimmed
        self.reason = reason
        self.code = code
        self.retryAfter = retryAfter
    }
}
