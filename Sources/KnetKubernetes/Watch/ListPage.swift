import FoundationEssentials
import KnetCore
import NIOCore
import SwiftProtobuf

/// A part of a list.
struct ListPage {
    let objects: [ToldObject]
    let revision: String
    /// Where the next part begins; `nil` at the end.
    let next: String?
    /// Why items were left out.
    let faults: [String]

    /// - Throws: `APIError` of kind `.broken` where the body is no list.
    init(_ body: ByteBuffer, isProtobuf: Bool, _ reader: inout ObjectReader) throws(APIError) {
        do {
            self = isProtobuf ? try Self.protobuf(body, &reader) : try Self.json(body, &reader)
        } catch {
            throw APIError(.broken, "the list cannot be read (\(error))")
        }
    }

    private init(objects: [ToldObject], revision: String, next: String?, faults: [String]) {
        self.objects = objects
        self.revision = revision
        self.next = next
        self.faults = faults
    }

    private static func protobuf(_ body: ByteBuffer, _ reader: inout ObjectReader) throws -> ListPage {
        let list = try WireObjectList(serializedBytes: try Envelope.open(body).raw, options: Envelope.options)
        var objects: [ToldObject] = []
        objects.reserveCapacity(list.items.count)
        var faults: [String] = []
        for item in list.items {
            do { objects.append(try reader.object(item)) } catch { faults.append("an item cannot be read (\(error))") }
        }
        return ListPage(
            objects: objects, revision: list.metadata.resourceVersion, next: list.metadata.continue.nonEmpty,
            faults: faults)
    }

    private static func json(_ body: ByteBuffer, _ reader: inout ObjectReader) throws -> ListPage {
        let list = try JSONValue(parsing: Data(body.readableBytesView))
        guard let items = list["items"]?.array ?? (list["items"] == .null ? [] : nil) else {
            throw Envelope.NotAnEnvelope()
        }
        var objects: [ToldObject] = []
        var faults: [String] = []
        for item in items {
            do {
                objects.append(try reader.object(item))
            } catch {
                faults.append("\(item["metadata"]?["name"]?.string ?? "an item") cannot be read (\(error))")
            }
        }
        return ListPage(
            objects: objects, revision: list["metadata"]?["resourceVersion"]?.string ?? "",
            next: list["metadata"]?["continue"]?.string?.nonEmpty, faults: faults)
    }
}
