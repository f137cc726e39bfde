import KnetCore

/// The names that one object of the cluster has, with their records as they are sent. It is made once and shared by all that
/// hold it.
///
/// Bytes: for each name its length (1 byte) and the name, the number of its sets (1), and for each set type (2), count (2),
/// length (4) and the records. A record begins with a pointer to the question's name; whoever sends it under another puts
/// that in its place.
final class ZonePart: Hashable, Sendable {
    let bytes: [UInt8]

    init(_ names: [DomainName: [RecordSet]]) {
        var bytes: [UInt8] = []
        for (name, sets) in names.sorted(by: { $0.key.wire.lexicographicallyPrecedes($1.key.wire) }) {
            bytes.append(UInt8(name.wire.count))
            bytes += name.wire
            let sets = sets.filter { $0.count > 0 }
            bytes.append(UInt8(sets.count))
            for set in sets {
                bytes.append(short: set.type)
                bytes.append(short: UInt16(set.count))
                bytes.append(long: UInt32(set.records.count))
                bytes += set.records
            }
        }
        self.bytes = Array(bytes)
    }

    static func == (a: ZonePart, b: ZonePart) -> Bool { a === b || a.bytes == b.bytes }
    func hash(into hasher: inout Hasher) { hasher.combine(bytes) }

    /// The keys of its names, and where the sets of each begin.
    var names: [(key: NameKey, sets: Int)] {
        var (names, position) = ([(key: NameKey, sets: Int)](), 0)
        while position < bytes.count {
            let length = Int(bytes[position])
            names.append((NameKey(bytes, offset: position + 1, count: length), position + 1 + length))
            position = skipSets(position + 1 + length)
        }
        return names
    }

    private func skipSets(_ start: Int) -> Int {
        var position = start + 1
        for _ in 0..<bytes[start] {
            let length = bytes.withUnsafeBytes { Int($0.long(position + 4)) }
            position += 8 + length
        }
        return position
    }

    /// Calls `body` with each set of the name whose sets begin at `start`.
    func forEachSet(at start: Int, _ body: (RecordSlice) -> Void) {
        bytes.withUnsafeBytes { bytes in
            var position = start + 1
            for _ in 0..<bytes[start] {
                let end = position + 8 + Int(bytes.long(position + 4))
                body(
                    RecordSlice(
                        type: bytes.short(position), count: Int(bytes.short(position + 2)),
                        bytes: UnsafeRawBufferPointer(rebasing: bytes[position + 8..<end])))
                position = end
            }
        }
    }
}

/// Records of one name and type in a zone, where they are stored.
struct RecordSlice {
    let type: UInt16
    let count: Int
    let bytes: UnsafeRawBufferPointer
}

/// Records of one name and type, as they are made.
struct RecordSet {
    let type: UInt16
    private(set) var count = 0
    private(set) var records: [UInt8] = []
    private let ttl: UInt32

    init(_ type: UInt16, ttl: UInt32) {
        self.type = type
        self.ttl = ttl
    }

    /// More than these would not fit into a message over TCP.
    private static let largestCount = 4_000

    mutating func add(_ data: [UInt8]) {
        guard count < Self.largestCount else { return }
        count += 1
        records += [0xC0, UInt8(Query.headerLength)]
        records.append(short: type)
        records.append(short: 1)
        records.append(long: ttl)
        records.append(short: UInt16(data.count))
        records += data
    }

    /// A set of addresses of one family, sorted and without repetition.
    static func addresses(_ addresses: some Sequence<IPAddress>, ttl: UInt32) -> [RecordSet] {
        let all = Set(addresses).sorted()
        return IPFamily.allCases.map { family in
            var set = RecordSet(RecordType.address(family), ttl: ttl)
            for address in all where address.family == family { set.add(address.bytes) }
            return set
        }
    }

    static func one(_ type: UInt16, _ data: [UInt8], ttl: UInt32) -> RecordSet {
        var set = RecordSet(type, ttl: ttl)
        set.add(data)
        return set
    }
}

extension [UInt8] {
    mutating func append(short value: UInt16) {
        append(UInt8(truncatingIfNeeded: value >> 8))
        append(UInt8(truncatingIfNeeded: value))
    }

    mutating func append(long value: UInt32) {
        append(short: UInt16(truncatingIfNeeded: value >> 16))
        append(short: UInt16(truncatingIfNeeded: value))
    }
}
