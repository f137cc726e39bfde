import CMnl
import Glibc

/// The bytes of a transaction.
struct NftablesBatch {
    let table: String
    /// Of the last set in this transaction.
    var setNumber: UInt32 = 0
    private var bytes: [UInt8] = []
    private var last = 0

    /// NFPROTO_INET of <linux/netfilter.h>, which cannot be read beside glibc's <netinet/in.h>.
    static let inet: UInt8 = 1
    /// An attribute's length has 16 bits, and the list of elements is one.
    private static let largestList = 60_000

    init(table: String) {
        self.table = table
        message(Int(NFNL_MSG_BATCH_BEGIN), flags: 0, family: UInt8(AF_UNSPEC), resource: UInt16(NFNL_SUBSYS_NFTABLES)) {
            _ in
        }
    }

    /// What a rule of these is to the kernel.
    static func bytes(of expressions: [RuleExpression]) -> [UInt8] {
        var batch = NftablesBatch()
        for expression in expressions { expression.write(&batch) }
        return batch.bytes
    }

    private init() {
        table = ""
        bytes.reserveCapacity(1_024)
    }

    mutating func append(_ changes: SetChanges) {
        for (set, elements) in changes.removed { append(elements, of: set, isRemoval: true) }
        for (set, elements) in changes.added { append(elements, of: set, isRemoval: false) }
    }

    private mutating func append(_ elements: [SetElement], of set: String, isRemoval: Bool) {
        var rest = elements[...]
        let (tableName, setName) = (Array(table.utf8) + [0], Array(set.utf8) + [0])
        while !rest.isEmpty {
            let kind = isRemoval ? NFT_MSG_DELSETELEM : NFT_MSG_NEWSETELEM
            message(
                Int(NFNL_SUBSYS_NFTABLES) << 8 | Int(kind.rawValue), flags: isRemoval ? 0 : UInt16(NLM_F_CREATE),
                family: NftablesBatch.inet, resource: 0
            ) { batch in
                batch.attribute(NFTA_SET_ELEM_LIST_TABLE.rawValue) { $0.bytes += tableName }
                batch.attribute(NFTA_SET_ELEM_LIST_SET.rawValue) { $0.bytes += setName }
                batch.attribute(NFTA_SET_ELEM_LIST_ELEMENTS.rawValue, isNest: true) { batch in
                    let start = batch.bytes.count
                    while let element = rest.first, batch.bytes.count - start < Self.largestList {
                        batch.append(element, isRemoval: isRemoval)
                        rest.removeFirst()
                    }
                }
            }
        }
    }

    /// - Parameter data: what is kept with it for people.
    mutating func append(_ rule: [RuleExpression], to chain: String, data: [UInt8] = []) {
        message(NFT_MSG_NEWRULE, flags: NLM_F_CREATE | NLM_F_APPEND) { batch in
            batch.put(NFTA_RULE_TABLE.rawValue, text: batch.table)
            batch.put(NFTA_RULE_CHAIN.rawValue, text: chain)
            batch.nest(NFTA_RULE_EXPRESSIONS.rawValue) { batch in
                for expression in rule { expression.write(&batch) }
            }
            if !data.isEmpty { batch.put(NFTA_RULE_USERDATA.rawValue, bytes: data) }
        }
    }

    /// One expression of a rule.
    mutating func expression(_ name: String, _ body: (inout NftablesBatch) -> Void) {
        attribute(NFTA_LIST_ELEM.rawValue, isNest: true) { batch in
            batch.attribute(NFTA_EXPR_NAME.rawValue) { $0.append(text: name) }
            batch.attribute(NFTA_EXPR_DATA.rawValue, isNest: true, body)
        }
    }

    mutating func put(_ type: UInt32, _ number: some FixedWidthInteger) {
        attribute(type) { $0.append(number.bigEndian) }
    }

    mutating func put(_ type: UInt32, text: String) { attribute(type) { $0.append(text: text) } }

    mutating func put(_ type: UInt32, bytes: [UInt8]) { attribute(type) { $0.bytes += bytes } }

    mutating func nest(_ type: UInt32, _ body: (inout NftablesBatch) -> Void) {
        attribute(type, isNest: true, body)
    }

    mutating func put(_ type: UInt32, value: [UInt8]) {
        attribute(type, isNest: true) { $0.attribute(NFTA_DATA_VALUE.rawValue) { $0.bytes += value } }
    }

    private mutating func append(_ element: SetElement, isRemoval: Bool) {
        func data(_ type: UInt32, _ value: [UInt8], _ batch: inout NftablesBatch) {
            batch.attribute(type, isNest: true) { $0.attribute(NFTA_DATA_VALUE.rawValue) { $0.bytes += value } }
        }
        attribute(NFTA_LIST_ELEM.rawValue, isNest: true) { batch in
            data(NFTA_SET_ELEM_KEY.rawValue, element.key, &batch)
            if let lastKey = element.lastKey { data(NFTA_SET_ELEM_KEY_END.rawValue, lastKey, &batch) }
            if element.isEnd {
                batch.put(NFTA_SET_ELEM_FLAGS.rawValue, UInt32(NFT_SET_ELEM_INTERVAL_END.rawValue))
            }
            if isRemoval { return }
            if let value = element.value { data(NFTA_SET_ELEM_DATA.rawValue, value, &batch) }
            if let verdict = element.verdict {
                batch.nest(NFTA_SET_ELEM_DATA.rawValue) { verdict.write(&$0) }
            }
            if let timeout = element.timeout { batch.put(NFTA_SET_ELEM_TIMEOUT.rawValue, timeout) }
        }
    }

    /// The transaction, whose last request asks for an acknowledgement.
    consuming func finished() -> [UInt8] {
        // The low byte of its flags.
        bytes[last + 6] |= UInt8(NLM_F_ACK)
        message(Int(NFNL_MSG_BATCH_END), flags: 0, family: UInt8(AF_UNSPEC), resource: UInt16(NFNL_SUBSYS_NFTABLES)) {
            _ in
        }
        return bytes
    }

    mutating func message(
        _ type: nf_tables_msg_types, flags: Int32 = 0, _ body: (inout NftablesBatch) -> Void
    ) {
        message(
            Int(NFNL_SUBSYS_NFTABLES) << 8 | Int(type.rawValue), flags: UInt16(flags), family: Self.inet, resource: 0,
            body)
    }

    private mutating func message(
        _ type: Int, flags: UInt16, family: UInt8, resource: UInt16, _ body: (inout NftablesBatch) -> Void
    ) {
        last = bytes.count
        let start = bytes.count
        append(UInt32(0))
        append(UInt16(type))
        append(UInt16(NLM_F_REQUEST) | flags)
        append(UInt32(0))
        append(UInt32(0))
        bytes += [family, UInt8(NFNETLINK_V0)]
        append(resource.bigEndian)
        body(&self)
        withUnsafeBytes(of: UInt32(bytes.count - start)) { bytes.replaceSubrange(start..<start + 4, with: $0) }
    }

    private mutating func attribute(_ type: UInt32, isNest: Bool = false, _ body: (inout NftablesBatch) -> Void) {
        let start = bytes.count
        append(UInt16(0))
        append(UInt16(type) | (isNest ? UInt16(NLA_F_NESTED) : 0))
        body(&self)
        withUnsafeBytes(of: UInt16(truncatingIfNeeded: bytes.count - start)) {
            bytes.replaceSubrange(start..<start + 2, with: $0)
        }
        while bytes.count & 3 != 0 { bytes.append(0) }
    }

    private mutating func append(text: String) {
        bytes += text.utf8
        bytes.append(0)
    }

    private mutating func append(_ number: some FixedWidthInteger) {
        withUnsafeBytes(of: number) { bytes.append(contentsOf: $0) }
    }
}
