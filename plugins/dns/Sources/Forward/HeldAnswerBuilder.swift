import KnetCore

/// Takes what answers a question out of a reply: the records of the name, or the chain of names that leads to them, and what says
/// that there are none. All else is left: it was not asked for, and whoever said it may not know
/// (RFC 2181 §5.4.1, RFC 5452 §6).
struct HeldAnswerBuilder {
    private let question: Question
    private let asked: DomainName
    private let lifetimes: UpstreamReply.Lifetimes
    private var bytes: [UInt8] = []
    private var records: [HeldAnswer.RecordPlace] = []
    /// Where names stand that owners can point to.
    private var places: [DomainName: Int] = [:]
    private var lifetime = UInt32.max
    private var isNegative = false

    init(_ question: Question, lifetimes: UpstreamReply.Lifetimes) {
        self.question = question
        self.lifetimes = lifetimes
        asked = question.name
        note(asked, at: 0)
    }

    /// Names that end another one can be pointed to within it.
    private mutating func note(_ name: DomainName, at place: Int) {
        var (name, place) = (name.lowercased, place)
        while name != .root, place < 0x2000 {
            if places[name] == nil { places[name] = place }
            place += 1 + Int(name.wire[0])
            name = name.parent
        }
    }

    mutating func add(answers: [ReplyRecord], authorities: [ReplyRecord], code: ResponseCode) {
        let byName = Dictionary(grouping: answers) { $0.name.lowercased }
        var (name, seen, found) = (asked, Set<DomainName>(), false)
        while seen.insert(name).inserted {
            let here = byName[name] ?? []
            let wanted = here.filter { $0.type == question.type || question.type == RecordType.any }
            let alias = wanted.isEmpty ? here.first { $0.type == RecordType.cname } : nil
            let signatures = question.options.contains(.signatures) ? here.filter { $0.type == RecordType.rrsig } : []
            let kept =
                (alias.map { [$0] } ?? wanted)
                + (question.type == RecordType.rrsig || question.type == RecordType.any ? [] : signatures)
            for record in kept { add(record, isAnswer: true) }
            found = !wanted.isEmpty
            guard let alias, let target = alias.target else { break }
            name = target
        }
        isNegative = !found || code == .nameError
        guard isNegative else { return }
        let starts = authorities.filter { $0.type == RecordType.soa && name.isWithin($0.name.lowercased) }
        if let start = starts.max(by: { $0.name.wire.count < $1.name.wire.count }), start.data.count >= 20 {
            let minimum = start.data.suffix(4).withUnsafeBytes { $0.long(0) }
            let ttl = min(start.ttl, minimum, lifetimes.mostNegative)
            add(ReplyRecord(name: start.name, type: start.type, ttl: ttl, data: start.data), isAnswer: false)
        } else {
            // Without it nobody may remember that there is nothing (RFC 2308 §5).
            lifetime = 0
        }
        if question.options.contains(.signatures) {
            for record in authorities where [RecordType.rrsig, RecordType.nsec, RecordType.nsec3].contains(record.type)
            {
                add(record, isAnswer: false)
            }
        }
    }

    private mutating func add(_ record: ReplyRecord, isAnswer: Bool) {
        let start = bytes.count
        if let place = places[record.name.lowercased] {
            bytes.append(short: 0xC000 | UInt16(place))
        } else {
            bytes += record.name.wire
        }
        bytes.append(short: record.type)
        bytes.append(short: 1)
        let ttl = isAnswer ? min(max(record.ttl, lifetimes.least), lifetimes.most) : record.ttl
        lifetime = min(lifetime, ttl)
        let place = bytes.count
        bytes.append(long: ttl)
        bytes.append(short: UInt16(record.data.count))
        if record.type == RecordType.cname {
            note(DomainName(asWritten: record.data), at: asked.wire.count + bytes.count)
        }
        bytes += record.data
        guard bytes.count < 0xFF00 else { return }
        records.append(
            .init(start: UInt16(start), end: UInt16(bytes.count), ttl: UInt16(place), isAnswer: isAnswer))
    }

    /// - Returns: `nil` where there is more than a message can hold.
    func finish(_ code: ResponseCode, isVerified: Bool) -> HeldAnswer? {
        guard bytes.count < 0xFF00 else { return nil }
        return HeldAnswer(
            bytes: Array(bytes), records: Array(records), nameLength: asked.wire.count, code: code.rawValue,
            isVerified: isVerified, hasAskedType: !isNegative, lifetime: lifetime == .max ? 0 : lifetime)
    }
}

extension ReplyRecord {
    /// Where a CNAME leads.
    fileprivate var target: DomainName? {
        type == RecordType.cname ? DomainName(asWritten: data).lowercased : nil
    }
}

extension DomainName {
    var lowercased: DomainName { DomainName(asWritten: wire.map(\.lowercased)) }

    /// Whether it is the domain or a name below.
    func isWithin(_ domain: DomainName) -> Bool {
        wire.withUnsafeBytes { $0.start(ofSuffix: domain.wire) != nil }
    }
}
