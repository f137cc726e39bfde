/// What another server is asked, and what its answer is held under.
struct Question: Hashable, Sendable, CustomStringConvertible {
    private let key: NameKey
    let type: UInt16
    let options: Options

    /// What makes answers to one name and type differ.
    struct Options: OptionSet, Hashable, Sendable {
        let rawValue: UInt8
        /// With signatures: the bit DO.
        static let signatures = Options(rawValue: 1)
        /// Not verified: the bit CD.
        static let unchecked = Options(rawValue: 2)

        init(rawValue: UInt8) { self.rawValue = rawValue }

        init(_ query: Query) {
            self = query.edns?.wantsSignatures == true ? [.signatures] : []
            if query.flags & Flags.checkingDisabled != 0 { insert(.unchecked) }
        }
    }

    init(_ name: DomainName, _ type: UInt16, _ options: Options = []) {
        key = NameKey(name)
        self.type = type
        self.options = options
    }

    /// For looking something up: the name stays where it is.
    init(sought name: UnsafeRawBufferPointer, _ type: UInt16, _ options: Options) {
        key = NameKey(sought: name)
        self.type = type
        self.options = options
    }

    var name: DomainName { key.withBytes { DomainName(checked: $0) } }

    /// A number that differs among most questions, cheaply.
    var spread: Int { key.withBytes { name in name.reduce(Int(type)) { $0 &* 31 &+ Int($1) } } }

    /// One that may be kept.
    var kept: Question { Question(name, type, options) }

    var description: String { "\(name) \(RecordType.name(type))" }
}
