import KnetCore

/// What a datagram or message of an upstream means for a question.
enum UpstreamReply {
    /// Not an answer to the question: somebody else's, or nobody's.
    case foreign
    /// The answer did not fit.
    case truncated
    /// The upstream cannot or does not want to answer.
    case refused(ResponseCode)
    case answer(HeldAnswer)

    /// TTLs in seconds that are told at least and at most.
    struct Lifetimes: Sendable {
        var least: UInt32 = 0
        var most: UInt32 = 3_600
        /// For what is not there.
        var mostNegative: UInt32 = 300
    }

    init(_ message: UnsafeRawBufferPointer, to question: Question, id: UInt16, lifetimes: Lifetimes) {
        self = Self.read(message, question, id, lifetimes) ?? .foreign
    }

    private static func read(
        _ message: UnsafeRawBufferPointer, _ question: Question, _ id: UInt16, _ lifetimes: Lifetimes
    ) -> UpstreamReply? {
        guard message.count >= Query.headerLength, message.short(0) == id else { return nil }
        let flags = message.short(2)
        guard flags & Flags.response != 0, flags & Flags.opcode == 0 else { return nil }
        let code = ResponseCode(rawValue: UInt8(flags & 15))
        // Some that do not understand a question do not repeat it.
        if message.short(4) == 0, let code, code != .noError, code != .nameError { return .refused(code) }
        guard message.short(4) == 1, let (name, end) = DomainName.read(message, at: Query.headerLength),
            name.lowercased == question.name, end + 4 <= message.count,
            message.short(end) == question.type, message.short(end + 2) == 1
        else { return nil }
        if flags & Flags.truncated != 0 { return .truncated }
        guard code == .noError || code == .nameError else { return .refused(code ?? .serverFailure) }
        guard let records = ReplyRecord.all(message, from: end + 4) else { return .refused(.formatError) }
        var held = HeldAnswerBuilder(question, lifetimes: lifetimes)
        held.add(answers: records.answers, authorities: records.authorities, code: code ?? .serverFailure)
        guard let answer = held.finish(code ?? .serverFailure, isVerified: flags & Flags.verified != 0) else {
            return .refused(.formatError)
        }
        return .answer(answer)
    }
}

/// A record of a reply with its names written out.
struct ReplyRecord {
    let name: DomainName
    let type: UInt16
    let ttl: UInt32
    let data: [UInt8]

    /// - Returns: `nil` where the message is not well-formed.
    static func all(
        _ message: UnsafeRawBufferPointer, from start: Int
    ) -> (answers: [ReplyRecord], authorities: [ReplyRecord])? {
        var position = start
        var sections: [[ReplyRecord]] = []
        for offset in [6, 8] {
            var records: [ReplyRecord] = []
            for _ in 0..<message.short(offset) {
                guard let (name, _) = DomainName.read(message, at: position),
                    let frame = Record(message, at: position), let data = data(message, frame)
                else { return nil }
                // A TTL with the highest bit set is taken for 0 (RFC 2181 §8).
                let ttl = frame.ttl > UInt32(Int32.max) ? 0 : frame.ttl
                if frame.class == 1 { records.append(ReplyRecord(name: name, type: frame.type, ttl: ttl, data: data)) }
                position = frame.end
            }
            sections.append(records)
        }
        return (sections[0], sections[1])
    }

    /// The types whose data may have compressed names (RFC 3597 §4): bytes before the first name, and how many names.
    private static let compressed: [UInt16: (before: Int, names: Int)] = [
        2: (0, 1), 3: (0, 1), 4: (0, 1), 5: (0, 1), 6: (0, 2), 7: (0, 1), 8: (0, 1), 9: (0, 1), 12: (0, 1), 14: (0, 2),
        15: (2, 1), 17: (0, 2), 18: (2, 1), 21: (2, 1), 26: (2, 2), 33: (6, 1), 36: (2, 1), 39: (0, 1),
    ]

    private static func data(_ message: UnsafeRawBufferPointer, _ frame: Record) -> [UInt8]? {
        guard let shape = compressed[frame.type] else {
            let size: Int? = frame.type == RecordType.a ? 4 : frame.type == RecordType.aaaa ? 16 : nil
            guard size == nil || size == frame.data.count else { return nil }
            return Array(message[frame.data])
        }
        guard frame.data.count >= shape.before else { return nil }
        var position = frame.data.lowerBound + shape.before
        var data = Array(message[frame.data.lowerBound..<position])
        for _ in 0..<shape.names {
            guard let (name, end) = DomainName.read(message, at: position), end <= frame.end else { return nil }
            data += name.wire
            position = end
        }
        return data + message[position..<frame.end]
    }
}

extension DomainName {
    /// Reads a name that may be compressed. Pointers lead backwards only, so that there is no loop.
    /// - Returns: the name as it is written, and where it ends; `nil` where it is not well-formed.
    static func read(_ message: UnsafeRawBufferPointer, at start: Int) -> (name: DomainName, end: Int)? {
        var wire: [UInt8] = []
        var (position, lowest, end) = (start, start, Int?.none)
        while position < message.count {
            let length = Int(message[position])
            switch length {
            case 0:
                wire.append(0)
                guard wire.count <= 255 else { return nil }
                return (DomainName(asWritten: wire), end ?? position + 1)
            case 1..<64:
                guard position + length < message.count, wire.count + length < 255 else { return nil }
                wire += message[position...position + length]
                position += length + 1
            case 0xC0...:
                guard position + 1 < message.count else { return nil }
                let target = Int(message.short(position) & 0x3FFF)
                guard target < lowest else { return nil }
                end = end ?? position + 2
                (position, lowest) = (target, target)
            default: return nil
            }
        }
        return nil
    }
}
