/// A name as the key of a table: kept within the bytes of what it names, or looked for in a message without copying it. A key
/// that is looked for must not outlive its bytes, and is never put into a table.
struct NameKey: Hashable, @unchecked Sendable {
    private enum Place {
        case held([UInt8], offset: UInt32, count: UInt8)
        case sought(UnsafeRawBufferPointer)
    }

    private let place: Place

    init(_ bytes: [UInt8], offset: Int, count: Int) {
        place = .held(bytes, offset: UInt32(offset), count: UInt8(count))
    }

    init(_ name: DomainName) { self.init(name.wire, offset: 0, count: name.wire.count) }

    init(sought bytes: UnsafeRawBufferPointer) { place = .sought(bytes) }

    /// The name in the form of a message.
    func withBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        switch place {
        case .held(let bytes, let offset, let count):
            bytes.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[Int(offset)..<Int(offset) + Int(count)])) }
        case .sought(let bytes): body(bytes)
        }
    }

    func hash(into hasher: inout Hasher) { withBytes { hasher.combine(bytes: $0) } }

    static func == (a: NameKey, b: NameKey) -> Bool {
        a.withBytes { a in b.withBytes { b in a.elementsEqual(b) } }
    }
}
