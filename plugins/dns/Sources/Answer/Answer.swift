import KnetCore

/// An answer while it is written, straight into the bytes that are sent. Records that do not fit are left out: whole ones stay.
struct Answer {
    /// Bytes of an OPT record without options.
    static let optLength = 11
    /// What is said to be taken over UDP, and given at most (https://www.dnsflagday.net/2020/).
    static let largestPayload = 1232

    private let bytes: UnsafeMutableRawBufferPointer
    private let limit: Int
    private let query: Query
    private(set) var length: Int
    /// Where the name stands that the next records are of.
    var owner = Query.headerLength
    private(set) var answers: UInt16 = 0
    private var authorities: UInt16 = 0
    private var additionals: UInt16 = 0
    private var isTruncated = false
    /// Whether there are records of the type asked for, be it that they do not fit.
    private(set) var hasAskedType = false

    var code = ResponseCode.noError
    /// Whether all of it is from this node's own names.
    var isAuthoritative = true
    /// Whether whoever was asked vouches for signatures.
    var isVerified = false

    /// Begins with the question as it was asked.
    /// - Parameters:
    ///   - message: the query's bytes.
    ///   - bytes: where the answer is written.
    ///   - limit: how long it may become, not more than `bytes`.
    init(to query: Query, _ message: UnsafeRawBufferPointer, into bytes: UnsafeMutableRawBufferPointer, limit: Int) {
        self.query = query
        self.bytes = bytes
        self.limit = limit - (query.edns == nil ? 0 : Self.optLength)
        length = query.questionEnd
        bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: message[..<query.questionEnd]))
    }

    /// Whether something did not fit.
    var isFull: Bool { isTruncated }

    /// What is written at some place.
    func bytes(_ range: Range<Int>) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[range])
    }

    /// Forgets all records.
    mutating func restart() {
        length = query.questionEnd
        owner = Query.headerLength
        (answers, authorities, additionals) = (0, 0, 0)
        (isTruncated, isAuthoritative, isVerified) = (false, true, false)
        hasAskedType = false
        code = .noError
    }

    /// Which section a record goes to.
    enum Section { case answer, authority, additional }

    /// Says that the owner's real name is another; what follows is that name's.
    mutating func alias(to name: UnsafeRawBufferPointer, ttl: UInt32) {
        guard reserve(12 + name.count) else { return }
        put(short: 0xC000 | UInt16(owner))
        put(short: RecordType.cname)
        put(short: 1)
        put(long: ttl)
        put(short: UInt16(name.count))
        owner = length
        put(name)
        answers += 1
    }

    /// Appends records as a zone has them, beginning with the `start`-th: who asks several times is led to each of them.
    mutating func append(_ records: RecordSlice, startingAt start: Int = 0, to section: Section = .answer) {
        hasAskedType = hasAskedType || records.type == query.type && section == .answer
        var position = records.bytes.recordStart(start)
        for _ in 0..<records.count {
            if position == records.bytes.count { position = 0 }
            let size = 12 + Int(records.bytes.short(position + 10))
            guard reserve(size, in: section) else { return }
            let place = length
            put(UnsafeRawBufferPointer(rebasing: records.bytes[position..<position + size]))
            set(short: 0xC000 | UInt16(owner), at: place)
            count(section)
            position += size
        }
    }

    /// Appends the owner's address.
    mutating func append(_ address: IPAddress, ttl: UInt32) {
        let size = address.family.bits / 8
        hasAskedType = hasAskedType || RecordType.address(address.family) == query.type
        guard reserve(12 + size) else { return }
        put(short: 0xC000 | UInt16(owner))
        put(short: RecordType.address(address.family))
        put(short: 1)
        put(long: ttl)
        put(short: UInt16(size))
        withUnsafeBytes(of: address.number.bigEndian) { put(UnsafeRawBufferPointer(rebasing: $0.suffix(size))) }
        answers += 1
    }

    /// Says until when it may be taken that there is nothing (RFC 2308 §3): the start of authority of the domain that
    /// begins at `apex` of the owner's name.
    mutating func appendStart(ofDomainAt apex: Int, serial: UInt32, ttl: UInt32) {
        let domain = 0xC000 | UInt16(owner + apex)
        let data = 9 + 13 + 20
        guard reserve(12 + data, in: .authority) else { return }
        put(short: domain)
        put(short: RecordType.soa)
        put(short: 1)
        put(long: ttl)
        put(short: UInt16(data))
        for label in [StaticString("\u{2}ns\u{3}dns"), StaticString("\u{A}hostmaster")] {
            put(UnsafeRawBufferPointer(start: label.utf8Start, count: label.utf8CodeUnitCount))
            put(short: domain)
        }
        put(long: serial)
        for seconds: UInt32 in [7_200, 1_800, 86_400, ttl] { put(long: seconds) }
        authorities += 1
    }

    /// Appends what is held of the owner's name, which another server said.
    /// - Parameters:
    ///   - age: seconds since it was said.
    ///   - stale: the TTL to tell where it is out of date.
    mutating func append(_ held: HeldAnswer, age: UInt32, stale: UInt32?) {
        if held.isFailure { restart() }
        isAuthoritative = false
        isVerified = answers == 0 && held.isVerified
        code = ResponseCode(rawValue: held.code) ?? .serverFailure
        hasAskedType = hasAskedType || held.hasAskedType
        // Records point to the name asked for, and to places behind it.
        let (name, start) = (owner, length)
        for record in held.records {
            let section: Section = record.isAnswer ? .answer : .authority
            let size = Int(record.end - record.start)
            guard reserve(size, in: section) else { return }
            let place = length
            held.bytes.withUnsafeBytes {
                put(UnsafeRawBufferPointer(rebasing: $0[Int(record.start)..<Int(record.end)]))
            }
            let pointer = bytes.short(place)
            if pointer & 0xC000 == 0xC000 {
                let target = Int(pointer & 0x3FFF)
                let moved = target < held.nameLength ? name + target : start + target - held.nameLength
                set(short: 0xC000 | UInt16(moved), at: place)
            }
            let ttl = place + Int(record.ttl - record.start)
            set(long: stale ?? max(bytes.long(ttl), age) - age, at: ttl)
            count(section)
        }
    }

    /// Appends the addresses of servers that are named by the records between two places, as far as there is room.
    mutating func appendAddresses(ofServersFrom start: Int, in zone: Zone) {
        let end = length
        var position = start
        while position < end {
            let size = 12 + Int(bytes.short(position + 10))
            if bytes.short(position + 2) == RecordType.srv {
                let target = position + 18
                let name = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[target..<position + size])
                owner = target
                zone.find(name)?.forEachSet { set in
                    guard set.type == RecordType.a || set.type == RecordType.aaaa else { return }
                    append(set, to: .additional)
                }
            }
            position += size
        }
    }

    /// Ends the answer.
    /// - Returns: its length.
    mutating func finish() -> Int {
        var flags = Flags.response | query.flags & (Flags.recursionDesired | Flags.checkingDisabled | Flags.opcode)
        flags |= Flags.recursionAvailable | UInt16(code.rawValue & 15)
        if isAuthoritative && (code == .noError || code == .nameError) { flags |= Flags.authoritative }
        if isTruncated { flags |= Flags.truncated }
        if isVerified && (query.flags & Flags.verified != 0 || query.edns?.wantsSignatures == true) {
            flags |= Flags.verified
        }
        if let edns = query.edns {
            bytes[length] = 0
            length += 1
            put(short: RecordType.opt)
            put(short: UInt16(Self.largestPayload))
            put(long: UInt32(code.rawValue >> 4) << 24 | (edns.wantsSignatures ? 0x8000 : 0))
            put(short: 0)
            additionals += 1
        }
        set(short: flags, at: 2)
        set(short: query.questionEnd > Query.headerLength ? 1 : 0, at: 4)
        set(short: answers, at: 6)
        set(short: authorities, at: 8)
        set(short: additionals, at: 10)
        return length
    }

    // MARK: Bytes

    /// Whether so many bytes more fit; where records of the answer do not, that is said.
    private mutating func reserve(_ count: Int, in section: Section = .answer) -> Bool {
        let fits = !isTruncated && length + count <= limit
        if !fits, section != .additional { isTruncated = true }
        return fits
    }

    private mutating func count(_ section: Section) {
        switch section {
        case .answer: answers += 1
        case .authority: authorities += 1
        case .additional: additionals += 1
        }
    }

    private mutating func put(_ source: UnsafeRawBufferPointer) {
        guard let from = source.baseAddress else { return }
        bytes.baseAddress?.advanced(by: length).copyMemory(from: from, byteCount: source.count)
        length += source.count
    }

    private mutating func put(short value: UInt16) {
        set(short: value, at: length)
        length += 2
    }

    private mutating func put(long value: UInt32) {
        set(long: value, at: length)
        length += 4
    }

    private func set(short value: UInt16, at offset: Int) {
        bytes.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
    }

    private func set(long value: UInt32, at offset: Int) {
        bytes.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt32.self)
    }
}

extension UnsafeMutableRawBufferPointer {
    func short(_ offset: Int) -> UInt16 { UnsafeRawBufferPointer(self).short(offset) }
    func long(_ offset: Int) -> UInt32 { UnsafeRawBufferPointer(self).long(offset) }
}

extension UnsafeRawBufferPointer {
    /// Where the `index`-th record of a set begins.
    fileprivate func recordStart(_ index: Int) -> Int {
        var position = 0
        for _ in 0..<index { position += 12 + Int(short(position + 10)) }
        return position
    }
}
