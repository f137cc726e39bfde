import CMnl
import Glibc
public import KnetCore

/// A set or verdict map of an `inet` table.
public struct SetDefinition: Hashable, Sendable {
    /// A part of its keys. Each takes a multiple of four bytes.
    public enum Part: Hashable, Sendable {
        case address(IPFamily)
        case transport
        case port
        case interface
    }

    public let name: String
    public let key: [Part]
    public var hasIntervals = false
    public var hasTimeouts = false
    /// Whether its elements say what becomes of a packet.
    public var isVerdictMap = false
    /// For people; it does not make a set another one.
    public var comment = ""

    public init(_ name: String, _ key: [Part]) {
        self.name = name
        self.key = key
    }

    public static func == (a: SetDefinition, b: SetDefinition) -> Bool { a.identity == b.identity }
    public func hash(into hasher: inout Hasher) { hasher.combine(name) }

    /// Bytes of a key.
    public var keyBytes: Int { Int(key.count > 1 ? key.reduce(0) { $0 + $1.padded } : key.first?.length ?? 0) }

    private var identity: [String] {
        [name, "\(key)", "\(hasIntervals) \(hasTimeouts) \(isVerdictMap)"]
    }
}

extension SetDefinition.Part {
    /// libnftables' number of the type (`enum datatypes` of its datatype.h), so that nft can print elements.
    fileprivate var type: UInt32 {
        switch self {
        case .address(.v4): 7
        case .address(.v6): 8
        case .transport: 12
        case .port: 13
        case .interface: 41
        }
    }

    fileprivate var length: UInt32 {
        switch self {
        case .address(let family): UInt32(family.bits / 8)
        case .transport: 1
        case .port: 2
        case .interface: 16
        }
    }

    /// In a concatenation.
    fileprivate var padded: UInt32 { (length + 3) & ~3 }

    fileprivate static func part(ofType type: UInt32) -> SetDefinition.Part? {
        let all: [SetDefinition.Part] = [.address(.v4), .address(.v6), .transport, .port, .interface]
        return all.first { $0.type == type }
    }
}

/// Where packets meet a chain.
public struct ChainHook: Hashable, Sendable {
    /// `NF_INET_*` of <linux/netfilter.h>.
    public enum Hook: UInt32, Sendable { case input = 1, forward = 2, output = 3 }

    public let hook: Hook
    /// Lesser ones come first.
    public let priority: Int32

    public init(_ hook: Hook, priority: Int32) {
        self.hook = hook
        self.priority = priority
    }
}

/// A rule, which the kernel keeps together with what tells it from others.
public struct RuleDefinition: Hashable, Sendable {
    public let expressions: [RuleExpression]
    /// A digest of the expressions, and words for people. Rules are the same where this is.
    public let comment: String

    public init(_ expressions: [RuleExpression], for purpose: String = "") {
        self.expressions = expressions
        let digest = String(StableHash.of("\(expressions)"), radix: 36)
        comment = String((purpose.isEmpty ? digest : "\(digest) \(purpose.commentable)").prefix(Self.longestComment))
    }

    /// One that was read.
    fileprivate init(comment: String) {
        expressions = []
        self.comment = comment
    }

    /// nft refuses to print longer ones.
    static let longestComment = 120

    public static func == (a: RuleDefinition, b: RuleDefinition) -> Bool { a.comment == b.comment }
    public func hash(into hasher: inout Hasher) { hasher.combine(comment) }
}

extension String {
    /// Without letters that would not come back as they were in nft's syntax.
    fileprivate var commentable: String {
        String(unicodeScalars.map { $0.isASCII && $0.value >= 32 && $0 != "\"" && $0 != "\\" ? Character($0) : "?" })
    }
}

public struct ChainDefinition: Hashable, Sendable {
    public let name: String
    /// Of a chain of type filter that accepts what no rule decides; `nil` for one that others jump to.
    public let hook: ChainHook?
    public let rules: [RuleDefinition]

    public init(_ name: String, hook: ChainHook? = nil, _ rules: [RuleDefinition]) {
        self.name = name
        self.hook = hook
        self.rules = rules
    }
}

/// Changes of a table, of which all or nothing is done at once.
public struct TableChanges: Sendable {
    public var counters: [String] = []
    public var sets: [SetDefinition] = []
    /// Chains that are made, or filled anew.
    public var chains: [ChainDefinition] = []
    public var elements = SetChanges()
    public var removedChains: [String] = []
    public var removedSets: [String] = []
    public var removedCounters: [String] = []

    public init() {}

    public var count: Int {
        counters.count + sets.count + chains.count + elements.count + removedChains.count + removedSets.count
            + removedCounters.count
    }
}

/// What a table holds beside elements.
public struct TableContents: Sendable {
    public var counters: [String: (packets: UInt64, bytes: UInt64)] = [:]
    public var sets: [SetDefinition] = []
    public var chains: [ChainDefinition] = []
}

extension SetElements {
    /// Makes the table where there is none.
    public func change(_ changes: TableChanges) throws {
        if changes.count == 0 { return }
        var batch = NftablesBatch(table: table)
        batch.appendTable()
        for counter in changes.counters { batch.append(counter: counter) }
        for set in changes.sets { batch.append(set) }
        for chain in changes.chains { batch.append(chain) }
        for chain in changes.chains {
            batch.flush(chain.name)
            for rule in chain.rules { batch.append(rule, to: chain.name) }
        }
        batch.append(changes.elements)
        // Chains may lead to each other.
        for chain in changes.removedChains { batch.flush(chain) }
        for chain in changes.removedChains { batch.remove(chain: chain) }
        for set in changes.removedSets { batch.remove(set: set) }
        for counter in changes.removedCounters { batch.remove(counter: counter) }
        try transact(batch, writes: changes.count)
    }

    /// - Returns: `nil` where there is no such table.
    public func contents() throws -> TableContents? {
        var contents = TableContents()
        guard let counters = try counters() else { return nil }
        contents.counters = counters
        try dump(NFT_MSG_GETSET, NFTA_SET_TABLE.rawValue) {
            contents.sets = []
        } visit: { attributes in
            if let set = SetDefinition(attributes) { contents.sets.append(set) }
        }
        var (hooks, rules): ([String: ChainHook?], [String: [RuleDefinition]]) = ([:], [:])
        try dump(NFT_MSG_GETCHAIN, NFTA_CHAIN_TABLE.rawValue) {
            hooks = [:]
        } visit: { attributes in
            guard let name = attributes[NFTA_CHAIN_NAME.rawValue]?.text else { return }
            hooks[name] = .some(ChainHook(attributes))
        }
        try dump(NFT_MSG_GETRULE, NFTA_RULE_TABLE.rawValue) {
            rules = [:]
        } visit: { attributes in
            guard let chain = attributes[NFTA_RULE_CHAIN.rawValue]?.text else { return }
            let comment = attributes[NFTA_RULE_USERDATA.rawValue].flatMap { UserData.comment($0.bytes) } ?? ""
            rules[chain, default: []].append(RuleDefinition(comment: comment))
        }
        contents.chains = hooks.map { ChainDefinition($0.key, hook: $0.value, rules[$0.key] ?? []) }
        return contents
    }

    /// What the table's counters say; `nil` where there is no such table.
    public func counters() throws -> [String: (packets: UInt64, bytes: UInt64)]? {
        var counters: [String: (packets: UInt64, bytes: UInt64)] = [:]
        do {
            // A dump of a table that is not there is empty; asking for the table is not.
            try exists()
        } catch let error as SystemError where error.errno == ENOENT {
            return nil
        }
        try dump(NFT_MSG_GETOBJ, NFTA_OBJ_TABLE.rawValue) {
            counters = [:]
        } visit: { attributes in
            func number(_ type: UInt32) -> UInt64 {
                attributes[NFTA_OBJ_DATA.rawValue]?.nested[type]?.integer(UInt64.self).map(UInt64.init(bigEndian:)) ?? 0
            }
            guard let name = attributes[NFTA_OBJ_NAME.rawValue]?.text else { return }
            counters[name] = (number(NFTA_COUNTER_PACKETS.rawValue), number(NFTA_COUNTER_BYTES.rawValue))
        }
        return counters
    }

    /// - Parameter table: the attribute that says which table is meant; not all kernels select by it.
    private func dump(
        _ type: nf_tables_msg_types, _ tableAttribute: UInt32, restart: () -> Void,
        visit: (NetlinkAttributes) -> Void
    ) throws {
        try dump {
            .ofTable(table, type, tableAttribute)
        } restart: {
            restart()
        } visit: { attributes in
            if attributes[tableAttribute]?.text == table { visit(attributes) }
        }
    }
}

extension NetlinkMessage {
    static func ofTable(_ table: String, _ type: nf_tables_msg_types, _ attribute: UInt32) -> NetlinkMessage {
        var message = NetlinkMessage(
            "read table \(table)", type: Int(NFNL_SUBSYS_NFTABLES) << 8 | Int(type.rawValue))
        message.put(nfgenmsg(nfgen_family: NftablesBatch.inet, version: UInt8(NFNETLINK_V0), res_id: 0))
        message.put(attribute, text: table)
        return message
    }
}

extension ChainHook {
    fileprivate init?(_ attributes: NetlinkAttributes) {
        guard let nest = attributes[NFTA_CHAIN_HOOK.rawValue]?.nested,
            let number = nest[NFTA_HOOK_HOOKNUM.rawValue]?.integer(UInt32.self).map(UInt32.init(bigEndian:)),
            let hook = Hook(rawValue: number),
            let priority = nest[NFTA_HOOK_PRIORITY.rawValue]?.integer(Int32.self).map(Int32.init(bigEndian:))
        else { return nil }
        self.init(hook, priority: priority)
    }
}

extension SetDefinition {
    fileprivate init?(_ attributes: NetlinkAttributes) {
        func number(_ type: UInt32) -> UInt32? {
            attributes[type]?.integer(UInt32.self).map(UInt32.init(bigEndian:))
        }
        guard let name = attributes[NFTA_SET_NAME.rawValue]?.text, var type = number(NFTA_SET_KEY_TYPE.rawValue) else {
            return nil
        }
        var key: [Part] = []
        while type > 0 {
            guard let part = Part.part(ofType: type & 63) else { return nil }
            key.insert(part, at: 0)
            type >>= 6
        }
        self.init(name, key)
        let flags = number(NFTA_SET_FLAGS.rawValue) ?? 0
        hasIntervals = flags & NFT_SET_INTERVAL.rawValue != 0
        hasTimeouts = flags & NFT_SET_TIMEOUT.rawValue != 0
        isVerdictMap = flags & NFT_SET_MAP.rawValue != 0
    }
}

/// What nft keeps with objects: type, length and value, a byte for each of the first two (libnftnl's udata.h).
private enum UserData {
    static let ruleComment: UInt8 = 0
    static let setKeyByteOrder: UInt8 = 0
    static let setComment: UInt8 = 7

    static func comment(_ bytes: UnsafeRawBufferPointer) -> String? {
        guard bytes.count > 2, bytes[0] == ruleComment, bytes.count >= 2 + Int(bytes[1]) else { return nil }
        return String(decoding: bytes[2..<2 + Int(bytes[1])].prefix { $0 != 0 }, as: UTF8.self)
    }

    static func item(_ type: UInt8, _ value: [UInt8]) -> [UInt8] { [type, UInt8(value.count)] + value }

    static func item(_ type: UInt8, text: String) -> [UInt8] {
        item(type, Array(text.utf8.prefix(RuleDefinition.longestComment)) + [0])
    }
}

extension NftablesBatch {
    fileprivate mutating func appendTable() {
        message(NFT_MSG_NEWTABLE, flags: NLM_F_CREATE) { batch in batch.put(NFTA_TABLE_NAME.rawValue, text: batch.table)
        }
    }

    fileprivate mutating func append(counter: String) {
        message(NFT_MSG_NEWOBJ, flags: NLM_F_CREATE) { batch in
            batch.put(NFTA_OBJ_TABLE.rawValue, text: batch.table)
            batch.put(NFTA_OBJ_NAME.rawValue, text: counter)
            batch.put(NFTA_OBJ_TYPE.rawValue, UInt32(NFT_OBJECT_COUNTER))
            batch.nest(NFTA_OBJ_DATA.rawValue) { _ in }
        }
    }

    fileprivate mutating func remove(counter: String) {
        message(NFT_MSG_DELOBJ) { batch in
            batch.put(NFTA_OBJ_TABLE.rawValue, text: batch.table)
            batch.put(NFTA_OBJ_NAME.rawValue, text: counter)
            batch.put(NFTA_OBJ_TYPE.rawValue, UInt32(NFT_OBJECT_COUNTER))
        }
    }

    fileprivate mutating func append(_ set: SetDefinition) {
        setNumber += 1
        let isConcatenation = set.key.count > 1
        var flags = set.hasIntervals ? NFT_SET_INTERVAL.rawValue : 0
        if set.hasIntervals, isConcatenation { flags |= NFT_SET_CONCAT.rawValue }
        if set.hasTimeouts { flags |= NFT_SET_TIMEOUT.rawValue }
        if set.isVerdictMap { flags |= NFT_SET_MAP.rawValue }
        message(NFT_MSG_NEWSET, flags: NLM_F_CREATE) { batch in
            batch.put(NFTA_SET_TABLE.rawValue, text: batch.table)
            batch.put(NFTA_SET_NAME.rawValue, text: set.name)
            batch.put(NFTA_SET_FLAGS.rawValue, flags)
            batch.put(NFTA_SET_KEY_TYPE.rawValue, set.key.reduce(UInt32(0)) { $0 << 6 | $1.type })
            batch.put(NFTA_SET_KEY_LEN.rawValue, UInt32(set.keyBytes))
            // NFT_DATA_VERDICT of <linux/netfilter/nf_tables.h>, a value too large for an enumeration in C.
            if set.isVerdictMap {
                batch.put(NFTA_SET_DATA_TYPE.rawValue, UInt32(0xFFFF_FF00))
                batch.put(NFTA_SET_DATA_LEN.rawValue, UInt32(0))
            }
            batch.put(NFTA_SET_ID.rawValue, batch.setNumber)
            if set.hasIntervals, isConcatenation {
                batch.nest(NFTA_SET_DESC.rawValue) { batch in
                    batch.nest(NFTA_SET_DESC_CONCAT.rawValue) { batch in
                        for part in set.key {
                            batch.nest(NFTA_LIST_ELEM.rawValue) { $0.put(NFTA_SET_FIELD_LEN.rawValue, part.length) }
                        }
                    }
                }
            }
            // Names of interfaces are in the processor's order for nft, all else in that of the network.
            let order: UInt32 = set.key.first == .interface ? 1 : 2
            let data =
                UserData.item(UserData.setKeyByteOrder, withUnsafeBytes(of: order) { Array($0) })
                + (set.comment.isEmpty
                    ? [] : UserData.item(UserData.setComment, text: set.comment.commentable))
            batch.put(NFTA_SET_USERDATA.rawValue, bytes: data)
        }
    }

    fileprivate mutating func remove(set: String) {
        message(NFT_MSG_DELSET) { batch in
            batch.put(NFTA_SET_TABLE.rawValue, text: batch.table)
            batch.put(NFTA_SET_NAME.rawValue, text: set)
        }
    }

    fileprivate mutating func append(_ chain: ChainDefinition) {
        message(NFT_MSG_NEWCHAIN, flags: NLM_F_CREATE) { batch in
            batch.put(NFTA_CHAIN_TABLE.rawValue, text: batch.table)
            batch.put(NFTA_CHAIN_NAME.rawValue, text: chain.name)
            guard let hook = chain.hook else { return }
            batch.nest(NFTA_CHAIN_HOOK.rawValue) {
                $0.put(NFTA_HOOK_HOOKNUM.rawValue, hook.hook.rawValue)
                $0.put(NFTA_HOOK_PRIORITY.rawValue, hook.priority)
            }
            // NF_ACCEPT.
            batch.put(NFTA_CHAIN_POLICY.rawValue, UInt32(1))
            batch.put(NFTA_CHAIN_TYPE.rawValue, text: "filter")
        }
    }

    fileprivate mutating func remove(chain: String) {
        message(NFT_MSG_DELCHAIN) { batch in
            batch.put(NFTA_CHAIN_TABLE.rawValue, text: batch.table)
            batch.put(NFTA_CHAIN_NAME.rawValue, text: chain)
        }
    }

    fileprivate mutating func flush(_ chain: String) {
        message(NFT_MSG_DELRULE) { batch in
            batch.put(NFTA_RULE_TABLE.rawValue, text: batch.table)
            batch.put(NFTA_RULE_CHAIN.rawValue, text: chain)
        }
    }

    fileprivate mutating func append(_ rule: RuleDefinition, to chain: String) {
        append(rule.expressions, to: chain, data: UserData.item(UserData.ruleComment, text: rule.comment))
    }
}
