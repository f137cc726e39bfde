import KnetCore

/// Numbers of the protocol (https://www.iana.org/assignments/dns-parameters).
enum RecordType {
    static let a: UInt16 = 1
    static let ns: UInt16 = 2
    static let cname: UInt16 = 5
    static let soa: UInt16 = 6
    static let ptr: UInt16 = 12
    static let txt: UInt16 = 16
    static let aaaa: UInt16 = 28
    static let srv: UInt16 = 33
    static let opt: UInt16 = 41
    static let any: UInt16 = 255

    static let mx: UInt16 = 15
    static let rrsig: UInt16 = 46
    static let nsec: UInt16 = 47
    static let nsec3: UInt16 = 50

    static func address(_ family: IPFamily) -> UInt16 { family == .v4 ? a : aaaa }

    private static let names: [String: UInt16] = [
        "A": a, "NS": ns, "CNAME": cname, "SOA": soa, "PTR": ptr, "MX": mx, "TXT": txt, "AAAA": aaaa, "SRV": srv,
        "NAPTR": 35, "DS": 43, "RRSIG": rrsig, "NSEC": nsec, "DNSKEY": 48, "NSEC3": nsec3, "TLSA": 52, "SVCB": 64,
        "HTTPS": 65,
        "ANY": any, "CAA": 257,
    ]
    private static let numbers = Dictionary(uniqueKeysWithValues: names.map { ($0.value, $0.key) })

    /// As in a zone file; types without a name here as in RFC 3597 §5.
    static func name(_ type: UInt16) -> String { numbers[type] ?? "TYPE\(type)" }

    static func number(_ name: String) -> UInt16? {
        names[name.uppercased()] ?? (name.uppercased().hasPrefix("TYPE") ? UInt16(name.dropFirst(4)) : nil)
    }
}

enum ResponseCode: UInt8 {
    case noError = 0
    case formatError = 1
    case serverFailure = 2
    case nameError = 3
    case notImplemented = 4
    case refused = 5
    /// In the OPT record its upper bits: 1 << 4 (RFC 6891 §9).
    case badVersion = 16
}

/// A query, read in place.
struct Query {
    /// The bytes of a header.
    static let headerLength = 12

    let id: UInt16
    let flags: UInt16
    /// Where the question ends, and how long its name is.
    let questionEnd: Int
    let nameLength: Int
    let type: UInt16
    let isInternet: Bool
    /// What EDNS says (RFC 6891); `nil` where the query has none.
    let edns: EDNS?

    struct EDNS {
        /// Bytes that the client takes over UDP.
        let payload: Int
        let version: UInt8
        /// The bit DO.
        let wantsSignatures: Bool
    }

    /// What a datagram or message over TCP is.
    enum Reading {
        case query(Query)
        /// A query that cannot be answered but with a code; so many bytes of it are its question.
        case failed(ResponseCode, questionEnd: Int)
        /// Not a query, or not even a header: nothing is answered.
        case nothing
    }

    /// Reads a message; the name in small letters is put into `name`, of 256 bytes.
    static func read(_ message: UnsafeRawBufferPointer, name: UnsafeMutableRawBufferPointer) -> Reading {
        guard message.count >= headerLength else { return .nothing }
        let flags = message.short(2)
        // An answer is not answered: two servers would talk for ever.
        guard flags & Flags.response == 0 else { return .nothing }
        guard flags & Flags.opcode == 0 else { return .failed(.notImplemented, questionEnd: headerLength) }
        guard message.short(4) == 1, message.short(6) == 0, message.short(8) == 0 else {
            return .failed(.formatError, questionEnd: headerLength)
        }
        // A question's name is never compressed: nothing stands before it.
        var position = headerLength
        while true {
            guard position < message.count else { return .failed(.formatError, questionEnd: headerLength) }
            let length = Int(message[position])
            guard length < 64, position + length - headerLength < 255, position + length < message.count else {
                return .failed(.formatError, questionEnd: headerLength)
            }
            name[position - headerLength] = UInt8(length)
            for index in position..<position + length {
                name[index + 1 - headerLength] = message[index + 1].lowercased
            }
            position += length + 1
            if length == 0 { break }
        }
        guard position + 4 <= message.count else { return .failed(.formatError, questionEnd: headerLength) }
        let questionEnd = position + 4
        var edns: EDNS?
        var rest = questionEnd
        for _ in 0..<message.short(10) {
            guard let record = Record(message, at: rest) else { return .failed(.formatError, questionEnd: questionEnd) }
            rest = record.end
            guard record.type == RecordType.opt else { continue }
            guard edns == nil, record.isRoot else { return .failed(.formatError, questionEnd: questionEnd) }
            edns = EDNS(
                payload: Int(record.class), version: UInt8(truncatingIfNeeded: record.ttl >> 16),
                wantsSignatures: record.ttl & 0x8000 != 0)
        }
        return .query(
            Query(
                id: message.short(0), flags: flags, questionEnd: questionEnd,
                nameLength: position - headerLength, type: message.short(position),
                isInternet: message.short(position + 2) == 1, edns: edns))
    }
}

enum Flags {
    static let response: UInt16 = 1 << 15
    static let opcode: UInt16 = 15 << 11
    static let authoritative: UInt16 = 1 << 10
    static let truncated: UInt16 = 1 << 9
    static let recursionDesired: UInt16 = 1 << 8
    static let recursionAvailable: UInt16 = 1 << 7
    /// AD: signatures were verified (RFC 6840 §5.7, §5.8).
    static let verified: UInt16 = 1 << 5
    static let checkingDisabled: UInt16 = 1 << 4
}

/// The frame of one resource record in a message.
struct Record {
    /// Whether it is the root's, without compression.
    let isRoot: Bool
    let type: UInt16
    let `class`: UInt16
    let ttl: UInt32
    /// Where TTL and data begin.
    let ttlOffset: Int
    let data: Range<Int>
    var end: Int { data.upperBound }

    /// - Returns: `nil` where the record does not end within the message.
    init?(_ message: UnsafeRawBufferPointer, at start: Int) {
        guard var position = Self.end(ofNameAt: start, in: message), position + 10 <= message.count else { return nil }
        isRoot = position == start + 1
        type = message.short(position)
        `class` = message.short(position + 2)
        ttlOffset = position + 4
        ttl = message.long(position + 4)
        position += 10
        let length = Int(message.short(position - 2))
        guard position + length <= message.count else { return nil }
        data = position..<position + length
    }

    /// - Returns: the first byte behind a name that may be compressed.
    static func end(ofNameAt start: Int, in message: UnsafeRawBufferPointer) -> Int? {
        var position = start
        while position < message.count {
            let length = message[position]
            switch length {
            case 0: return position + 1
            case 0xC0...: return position + 2 <= message.count ? position + 2 : nil
            case 64...: return nil
            default: position += Int(length) + 1
            }
        }
        return nil
    }
}

extension UnsafeRawBufferPointer {
    /// Two bytes in network order.
    func short(_ offset: Int) -> UInt16 { UInt16(self[offset]) << 8 | UInt16(self[offset + 1]) }

    /// Four bytes in network order.
    func long(_ offset: Int) -> UInt32 { UInt32(short(offset)) << 16 | UInt32(short(offset + 2)) }
}
