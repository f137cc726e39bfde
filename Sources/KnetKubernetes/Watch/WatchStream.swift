import FoundationEssentials
import KnetCore
import NIOCore
import SwiftProtobuf

/// One event of a watch.
enum WatchEvent {
    case set(ToldObject)
    case removed(ToldObject)
    /// No object changed, but history went on to `revision`.
    case bookmark(revision: String, endsInitialEvents: Bool)
    case error(StatusMessage)
}

/// Marks the bookmark that ends the objects that were there already
/// (https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists).
private let initialEventsEnd = "k8s.io/initial-events-end"

extension WatchEvent {
    /// An object of any kind with nothing but metadata.
    fileprivate static func bookmark(_ metadata: WireObjectMeta) -> WatchEvent {
        .bookmark(
            revision: metadata.resourceVersion,
            endsInitialEvents: metadata.annotations[initialEventsEnd] == "true")
    }
}

/// Cuts a watch's bytes into events: a length of four bytes before each in protobuf, a line each in JSON.
struct WatchStream {
    private let isProtobuf: Bool
    private var buffer = ByteBuffer()

    /// Bytes of the largest event; etcd keeps no object above 1.5 MB.
    private static let limit = 16 << 20

    init(isProtobuf: Bool) { self.isProtobuf = isProtobuf }

    /// Whether the stream stands between two events.
    var isAtBoundary: Bool { buffer.readableBytes == 0 }

    mutating func append(_ chunk: ByteBuffer) {
        buffer.writeImmutableBuffer(chunk)
        buffer.discardReadBytes()
    }

    /// The next event that is whole.
    /// - Throws: `APIError` of kind `.broken` where the bytes are no events.
    mutating func next(_ reader: inout ObjectReader) throws(APIError) -> WatchEvent? {
        guard let frame = try frame() else { return nil }
        do {
            return isProtobuf ? try protobuf(frame, &reader) : try json(frame, &reader)
        } catch {
            throw APIError(.broken, "an event of the watch cannot be read (\(error))")
        }
    }

    private mutating func frame() throws(APIError) -> Data? {
        if isProtobuf {
            guard let length = buffer.getInteger(at: buffer.readerIndex, as: UInt32.self) else { return nil }
            guard length <= Self.limit else { throw Self.tooLong(Int(length)) }
            guard buffer.readableBytes >= 4 + Int(length) else { return nil }
            buffer.moveReaderIndex(forwardBy: 4)
            return buffer.readSlice(length: Int(length)).map { Data($0.readableBytesView) }
        }
        guard let end = buffer.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) else {
            guard buffer.readableBytes <= Self.limit else { throw Self.tooLong(buffer.readableBytes) }
            return nil
        }
        let line = buffer.readSlice(length: end - buffer.readerIndex).map { Data($0.readableBytesView) }
        buffer.moveReaderIndex(forwardBy: 1)
        return line
    }

    private static func tooLong(_ length: Int) -> APIError {
        APIError(.broken, "an event of the watch has \(length) bytes")
    }

    private func protobuf(_ frame: Data, _ reader: inout ObjectReader) throws -> WatchEvent {
        let event = try WireWatchEvent(serializedBytes: frame, options: Envelope.options)
        let envelope = try Envelope.open(event.object.raw)
        if event.type == "ERROR" { return .error(StatusMessage(try StatusMessage.wire(envelope))) }
        if event.type == "BOOKMARK" {
            let bookmark = try WireNamespace(serializedBytes: envelope.raw, options: Envelope.options)
            return .bookmark(bookmark.metadata)
        }
        return try Self.event(event.type, try reader.object(envelope.raw))
    }

    private func json(_ line: Data, _ reader: inout ObjectReader) throws -> WatchEvent {
        let event = try JSONValue(parsing: line)
        guard let type = event["type"]?.string, let object = event["object"] else { throw Envelope.NotAnEnvelope() }
        if type == "ERROR" { return .error(StatusMessage(object)) }
        if type == "BOOKMARK" {
            let metadata = object["metadata"]
            return .bookmark(
                revision: metadata?["resourceVersion"]?.string ?? "",
                endsInitialEvents: metadata?["annotations"]?[initialEventsEnd]?.string == "true")
        }
        return try Self.event(type, try reader.object(object))
    }

    private static func event(_ type: String, _ told: ToldObject) throws -> WatchEvent {
        switch type {
        case "ADDED", "MODIFIED": .set(told)
        case "DELETED": .removed(told)
        default: throw APIError(.broken, "an event of the watch is of type \(type)")
        }
    }
}
