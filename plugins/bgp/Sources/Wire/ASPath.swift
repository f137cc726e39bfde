/// The ASes that a route came through, the last one first (RFC 4271 §4.3, §5.1.2).
struct ASPath: Hashable, Sendable {
    var segments: [Segment] = []

    struct Segment: Hashable, Sendable {
        enum Kind: UInt8, Sendable {
            case set = 1
            case sequence = 2
        }

        let kind: Kind
        var numbers: [UInt32]
    }

    init() {}

    init(segments: [Segment]) { self.segments = segments }

    /// One sequence.
    init(_ numbers: [UInt32]) { segments = numbers.isEmpty ? [] : [Segment(kind: .sequence, numbers: numbers)] }

    /// How long the path is for a decision: a set counts as one (RFC 4271 §9.1.2.2).
    var length: Int { segments.reduce(0) { $0 + ($1.kind == .set ? 1 : $1.numbers.count) } }

    /// The AS that told the route; `nil` where the path is empty or begins with a set.
    var first: UInt32? { segments.first.flatMap { $0.kind == .sequence ? $0.numbers.first : nil } }

    func contains(_ number: UInt32) -> Bool { segments.contains { $0.numbers.contains(number) } }

    /// The path behind `number`, as often as `count` says.
    func prepending(_ number: UInt32, count: Int = 1) -> ASPath {
        ASPath([UInt32](repeating: number, count: count)).followed(by: self)
    }

    /// Sequences that meet become one where it can be written as one.
    private func followed(by other: ASPath) -> ASPath {
        guard let last = segments.last, let next = other.segments.first, last.kind == .sequence, next.kind == .sequence,
            last.numbers.count + next.numbers.count <= 255
        else { return ASPath(segments: segments + other.segments) }
        var joined = segments
        joined[joined.count - 1].numbers += next.numbers
        return ASPath(segments: joined + other.segments.dropFirst())
    }

    /// The part of `count` ASes at the front.
    private func prefix(_ count: Int) -> ASPath {
        var (left, taken) = (count, ASPath())
        for segment in segments where left > 0 {
            guard segment.kind == .sequence, segment.numbers.count > left else {
                taken.segments.append(segment)
                left -= segment.kind == .set ? 1 : segment.numbers.count
                continue
            }
            taken.segments.append(Segment(kind: .sequence, numbers: Array(segment.numbers.prefix(left))))
            left = 0
        }
        return taken
    }

    /// The path with what AS4_PATH knows of its end (RFC 6793 §4.2.3).
    func merged(withAS4Path full: ASPath) -> ASPath {
        let surplus = length - full.length
        return surplus < 0 ? self : prefix(surplus).followed(by: full)
    }
}

extension ASPath {
    /// The types of AS_CONFED_SEQUENCE and AS_CONFED_SET (RFC 5065 §3).
    private static let confederation: ClosedRange<UInt8> = 3...4

    /// - Parameters:
    ///   - octets: in a number, 2 or 4.
    ///   - dropsConfederations: as AS4_PATH has it (RFC 6793 §6); else their segments are malformed (RFC 5065 §5).
    /// - Returns: `nil` where it is malformed (RFC 7606 §7.2, RFC 7607).
    static func read(_ reader: ByteReader, octets: Int, dropsConfederations: Bool = false) -> ASPath? {
        var (reader, path) = (reader, ASPath())
        while let type = reader.byte() {
            guard let count = reader.byte(), count > 0, var part = reader.part(Int(count) * octets) else { return nil }
            if dropsConfederations, confederation.contains(type) { continue }
            guard let kind = Segment.Kind(rawValue: type),
                let numbers = octets == 4 ? part.numbers(UInt32.self) : part.numbers(UInt16.self)?.map(UInt32.init),
                !numbers.contains(0)
            else { return nil }
            path.segments.append(Segment(kind: kind, numbers: numbers))
        }
        return path
    }

    /// Whether a number needs more than 16 bits.
    var isWide: Bool { segments.contains { $0.numbers.contains { $0 > UInt16.max } } }

    /// With numbers of 2 or 4 bytes; in 2 bytes AS_TRANS stands for those that are too great. A segment holds up to 255.
    func bytes(octets: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        for segment in segments {
            for start in stride(from: 0, to: segment.numbers.count, by: 255) {
                let part = segment.numbers[start..<min(start + 255, segment.numbers.count)]
                bytes += [segment.kind.rawValue, UInt8(part.count)]
                for number in part {
                    if octets == 4 {
                        bytes.append(number: number)
                    } else {
                        bytes.append(number: UInt16(exactly: number) ?? Open.asTrans)
                    }
                }
            }
        }
        return bytes
    }
}

extension ASPath: CustomStringConvertible {
    /// "64512 64513 {64514 64515}".
    var description: String {
        segments.map { segment in
            let numbers = segment.numbers.map(String.init).joined(separator: " ")
            return segment.kind == .set ? "{\(numbers)}" : numbers
        }.joined(separator: " ")
    }
}
