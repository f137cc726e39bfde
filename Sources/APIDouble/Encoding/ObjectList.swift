import KnetCore
import NIOCore

/// A page of a list.
struct ObjectList {
    let resource: Resource
    let revision: Int
    let objects: ArraySlice<StoredObject>
    var continueToken = ""
    /// How many follow after this page; `nil` where a selector leaves that open.
    var remaining: Int?

    /// The answer's body.
    func encode(_ format: Format) -> ByteBuffer {
        switch format {
        case .json: json
        case .protobuf: protobuf
        }
    }

    private var metadata: JSONValue {
        var members: [String: JSONValue] = ["resourceVersion": .string("\(revision)")]
        if !continueToken.isEmpty { members["continue"] = .string(continueToken) }
        if let remaining { members["remainingItemCount"] = .integer(remaining) }
        return .object(members)
    }

    private var json: ByteBuffer {
        let items = objects.map(\.jsonItemText)
        var buffer = ByteBuffer()
        buffer.reserveCapacity(items.reduce(256) { $0 + $1.count + 1 })
        buffer.writeString("{\"kind\":\"\(resource.kind)List\",\"apiVersion\":\"\(resource.apiVersion)\",\"metadata\":")
        buffer.writeBytes(JSONWriter.text(of: metadata))
        buffer.writeString(",\"items\":[")
        for (index, item) in items.enumerated() {
            if index > 0 { buffer.writeString(",") }
            buffer.writeBytes(item)
        }
        buffer.writeString("]}\n")
        return buffer
    }

    private var protobuf: ByteBuffer {
        let items = objects.map(\.message)
        var list = ProtobufWriter(reserving: items.reduce(256) { $0 + $1.count + 8 })
        list.write(1, ProtobufMessage.ofKind["ListMeta"]?.encode(metadata) ?? [])
        for item in items { list.write(2, item) }
        let head = Format.envelopeHead(resource.apiVersion, "\(resource.kind)List", length: list.bytes.count)
        var buffer = ByteBuffer()
        buffer.reserveCapacity(list.bytes.count + 128)
        buffer.writeBytes(head.bytes)
        buffer.writeBytes(list.bytes)
        buffer.writeBytes(Format.envelopeTail)
        return buffer
    }
}
