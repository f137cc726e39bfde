import CMnl
import Glibc
import KnetCore

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
