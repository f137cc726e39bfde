/// What another server said of a name: checked, cleared of what was not asked for, and in a form that can be sent under any
/// name without reading it again.
///
/// The bytes are records one after the other. The name asked for is not among them; an owner is a pointer of two bytes, or a
/// name in full. A pointer's value below `nameLength` is a place in the name asked for; above, one in the bytes, with
/// `nameLength` added.
final class HeldAnswer: Sendable {
    struct RecordPlace: Sendable {
        let start: UInt16
        let end: UInt16
        let ttl: UInt16
        /// Whether it goes to the answer, not to the authority section.
        let isAnswer: Bool
    }

    let bytes: [UInt8]
    let records: [RecordPlace]
    let nameLength: Int
    /// The response code.
    let code: UInt8
    let isVerified: Bool
    /// Whether there are records of the type asked for, not just a name that leads elsewhere.
    let hasAskedType: Bool
    /// Seconds for which it is good; 0 for this query alone.
    let lifetime: UInt32

    init(
        bytes: [UInt8], records: [RecordPlace], nameLength: Int, code: UInt8, isVerified: Bool, hasAskedType: Bool,
        lifetime: UInt32
    ) {
        self.hasAskedType = hasAskedType
        self.bytes = bytes
        self.records = records
        self.nameLength = nameLength
        self.code = code
        self.isVerified = isVerified
        self.lifetime = lifetime
    }

    /// A failure, which is told for a while without asking again (RFC 2308 §7).
    static func failure(_ code: ResponseCode, lifetime: UInt32) -> HeldAnswer {
        HeldAnswer(
            bytes: [], records: [], nameLength: 1, code: code.rawValue, isVerified: false,
            hasAskedType: false, lifetime: lifetime)
    }

    var isNegative: Bool { code != 0 || !hasAskedType }
    var isNameError: Bool { code == ResponseCode.nameError.rawValue }
    var isFailure: Bool { code != 0 && !isNameError }

    /// Bytes of memory, about.
    var size: Int { 160 + bytes.count + records.count * MemoryLayout<RecordPlace>.stride + nameLength }
}
