/// A position in a part of a message. A read that would pass the part's end gives `nil` and moves nothing.
struct ByteReader {
    private let bytes: [UInt8]
    private(set) var position: Int
    private let end: Int

    init(_ bytes: [UInt8], from position: Int = 0) {
        self.init(bytes, from: position, to: bytes.count)
    }

    private init(_ bytes: [UInt8], from position: Int, to end: Int) {
        self.bytes = bytes
        self.position = position
        self.end = end
    }

    var count: Int { end - position }
    var isEmpty: Bool { position == end }

    mutating func byte() -> UInt8? { number() }
    mutating func short() -> UInt16? { number() }
    mutating func long() -> UInt32? { number() }

    /// A number of its type's width in network order, or of its `count` uppermost bytes.
    mutating func number<Number: FixedWidthInteger>(
        upper count: Int = Number.bitWidth / 8, as type: Number.Type = Number.self
    ) -> Number? {
        guard count <= self.count else { return nil }
        var number: Number = 0
        for byte in position..<position + count { number = number << 8 | Number(truncatingIfNeeded: bytes[byte]) }
        position += count
        return count == Number.bitWidth / 8 ? number : number << (Number.bitWidth - 8 * count)
    }

    /// The next `count` bytes as a part of their own.
    mutating func part(_ count: Int) -> ByteReader? {
        guard count <= self.count else { return nil }
        defer { position += count }
        return ByteReader(bytes, from: position, to: position + count)
    }

    /// Numbers up to the end; `nil` where the last one is cut off.
    mutating func numbers<Number: FixedWidthInteger>(_ type: Number.Type = Number.self) -> [Number]? {
        let size = Number.bitWidth / 8
        guard count % size == 0 else { return nil }
        var numbers: [Number] = []
        numbers.reserveCapacity(count / size)
        while let next = number(as: Number.self) { numbers.append(next) }
        return numbers
    }

    /// The bytes that are left.
    var rest: [UInt8] { Array(bytes[position..<end]) }

    /// The bytes from `start` up to here.
    func read(since start: Int) -> [UInt8] { Array(bytes[start..<position]) }
}

extension [UInt8] {
    /// Appends a number in network order.
    mutating func append<Number: FixedWidthInteger>(number: Number) {
        for shift in stride(from: Number.bitWidth - 8, through: 0, by: -8) {
            append(UInt8(truncatingIfNeeded: number >> shift))
        }
    }
}
