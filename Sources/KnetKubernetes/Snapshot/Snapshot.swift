import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux

/// The cluster as it was last known whole, on disk, so that a node boots without the API server.
///
/// The file: the magic line, then the time of saving (seconds since 1970, 8 bytes), then for every kind its name's length (4),
/// the name, the number of objects (4) and for each its length (4) and message, or JSON of custom resources; last a checksum (8)
/// of all before it. Numbers are big-endian. A file of another version or with a wrong sum is not read.
struct Snapshot {
    static let magic = Array("knetd cluster snapshot 1\n".utf8)

    var objects: [ObjectKey.Kind: [AnyClusterObject]]
    /// Seconds since 1970.
    let savedAt: Int

    struct Unreadable: Error, CustomStringConvertible {
        let description: String
    }

    /// - Returns: `nil` where there is none.
    static func read(_ path: String) throws -> Snapshot? {
        guard FileStamp(path: path) != nil else { return nil }
        let data = try contents(ofFile: path)
        var reader = Reader(bytes: Array(data))
        guard data.starts(with: magic) else {
            throw Unreadable(description: "it is of another version of knetd, or damaged")
        }
        guard data.count >= magic.count + 16, reader.isWhole else {
            throw Unreadable(description: "its checksum is wrong")
        }
        reader.position = magic.count
        let savedAt = try Int(reader.integer(UInt64.self))
        var snapshot = Snapshot(objects: [:], savedAt: savedAt)
        while reader.position < reader.end {
            let name = String(decoding: try reader.slice(), as: UTF8.self)
            let count = try reader.integer(UInt32.self)
            // A kind that this version does not know is passed over.
            let kind = ObjectKey.Kind(rawValue: name)
            var objects = kind.map(ObjectReader.init)
            var read: [AnyClusterObject] = []
            for _ in 0..<count {
                let message = try reader.slice()
                if let object = try objects?.object(Data(message)) { read.append(object.object) }
            }
            if let kind { snapshot.objects[kind] = read }
        }
        return snapshot
    }

    /// Writes the file anew; whatever happens, the old one or the new one is there.
    static func write(_ state: ClusterState, kinds: Set<ObjectKey.Kind>, to path: String, now: Int) throws {
        let temporary = "\(path).new"
        try Writer.write(temporary) { writer throws(SystemError) in
            try writer.append(magic)
            try writer.append(UInt64(now))
            for kind in kinds.sorted(by: { $0.rawValue < $1.rawValue }) {
                let keys = state.keys(of: kind)
                try writer.append(sized: Array(kind.rawValue.utf8))
                try writer.append(UInt32(keys.count))
                for key in keys {
                    let message = state.object(key).flatMap { try? $0.serialized() } ?? Data()
                    try writer.append(sized: Array(message))
                }
            }
        }
        try syscall("rename \(temporary)") { rename(temporary, path) }
        let folder = path.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" }
        let descriptor = try Descriptor(opening: folder, O_RDONLY | O_DIRECTORY)
        _ = fsync(descriptor.number)
    }
}

/// FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/): tells damage, not malice.
private struct Checksum {
    private(set) var value: UInt64 = 0xCBF2_9CE4_8422_2325

    mutating func add(_ bytes: some Sequence<UInt8>) {
        for byte in bytes { value = (value ^ UInt64(byte)) &* 0x100_0000_01B3 }
    }
}

private struct Reader {
    let bytes: [UInt8]
    var position = 0

    /// Where the checksum begins.
    var end: Int { bytes.count - 8 }

    var isWhole: Bool {
        var checksum = Checksum()
        checksum.add(bytes[..<end])
        return bytes[end...].reduce(UInt64(0)) { $0 << 8 | UInt64($1) } == checksum.value
    }

    mutating func integer<Number: FixedWidthInteger>(_: Number.Type) throws -> Number {
        try take(MemoryLayout<Number>.size).reduce(0) { $0 << 8 | Number(truncatingIfNeeded: $1) }
    }

    mutating func slice() throws -> ArraySlice<UInt8> { try take(Int(integer(UInt32.self))) }

    private mutating func take(_ count: Int) throws -> ArraySlice<UInt8> {
        guard position + count <= end else { throw Snapshot.Unreadable(description: "it ends too early") }
        defer { position += count }
        return bytes[position..<position + count]
    }
}

/// Writes a file in large pieces and sums it up.
private struct Writer: ~Copyable {
    private let descriptor: Descriptor
    private var buffer: [UInt8] = []
    private var checksum = Checksum()

    private static let piece = 1 << 16

    static func write(_ path: String, _ body: (inout Writer) throws(SystemError) -> Void) throws(SystemError) {
        var writer = Writer(descriptor: try Descriptor(opening: path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600))
        try body(&writer)
        try writer.finish()
    }

    private init(descriptor: consuming Descriptor) { self.descriptor = descriptor }

    mutating func append(_ bytes: [UInt8]) throws(SystemError) {
        buffer += bytes
        if buffer.count >= Self.piece { try flush() }
    }

    mutating func append(_ number: some FixedWidthInteger) throws(SystemError) {
        var number = number.bigEndian
        try append(withUnsafeBytes(of: &number) { Array($0) })
    }

    mutating func append(sized bytes: [UInt8]) throws(SystemError) {
        try append(UInt32(bytes.count))
        try append(bytes)
    }

    private mutating func flush() throws(SystemError) {
        checksum.add(buffer)
        try write()
    }

    private mutating func write() throws(SystemError) {
        var written = 0
        while written < buffer.count {
            let count = buffer[written...].withUnsafeBytes { Glibc.write(descriptor.number, $0.baseAddress, $0.count) }
            guard count >= 0 || errno == EINTR else { throw SystemError("write the snapshot", errno: errno) }
            written += max(count, 0)
        }
        buffer.removeAll(keepingCapacity: true)
    }

    private mutating func finish() throws(SystemError) {
        try flush()
        var sum = checksum.value.bigEndian
        buffer = withUnsafeBytes(of: &sum) { Array($0) }
        try write()
        guard fsync(descriptor.number) == 0 else { throw SystemError("write the snapshot", errno: errno) }
    }
}
