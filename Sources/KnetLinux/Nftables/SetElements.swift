import CMnl
import Glibc
import Synchronization

/// An element as the kernel has it: parts of a concatenation are padded to four bytes each, numbers that nftables compares as
/// such are in network order.
public struct SetElement: Sendable, Equatable {
    public var key: [UInt8]
    /// The last key of an interval.
    public var lastKey: [UInt8]?
    /// A map's.
    public var value: [UInt8]?
    /// A verdict map's.
    public var verdict: RuleVerdict?
    /// Whether the key is the first one behind an interval, of a set whose keys have one part.
    public var isEnd: Bool
    /// After so many milliseconds the kernel removes it.
    public var timeout: UInt64?

    public init(
        key: [UInt8], lastKey: [UInt8]? = nil, value: [UInt8]? = nil, verdict: RuleVerdict? = nil, isEnd: Bool = false,
        timeout: UInt64? = nil
    ) {
        self.key = key
        self.lastKey = lastKey
        self.value = value
        self.verdict = verdict
        self.isEnd = isEnd
        self.timeout = timeout
    }
}

/// Elements to remove and to add, in this order, in one transaction.
public struct SetChanges: Sendable {
    public var removed: [String: [SetElement]] = [:]
    public var added: [String: [SetElement]] = [:]

    public init() {}

    public var count: Int { removed.values.reduce(0) { $0 + $1.count } + added.values.reduce(0) { $0 + $1.count } }
    public var isEmpty: Bool { removed.isEmpty && added.isEmpty }
}

/// Elements of the sets of one `inet` table, by nf_tables' own messages (<linux/netfilter/nf_tables.h>): for large sets, and for
/// small changes of them, libnftables' text is too slow. In the network namespace of the thread that made it; its calls block
/// and are serialised.
public final class SetElements: Sendable {
    /// The socket is used under the lock only.
    private struct Box: @unchecked Sendable { let socket: NetlinkSocket }

    private let box: Mutex<Box>
    let table: String
    /// Under which events of our own making come.
    public let portID: UInt32

    /// - Parameter table: without its family.
    public init(table: String) throws {
        let socket = try NetlinkSocket(bus: NETLINK_NETFILTER)
        try socket.setBuffers(bytes: Self.largestBatch * 2)
        portID = socket.portID
        box = Mutex(Box(socket: socket))
        self.table = table
    }

    /// A transaction is one datagram.
    private static let largestBatch: Int32 = 32 << 20

    /// All or nothing of it is in force afterwards.
    public func change(_ changes: SetChanges) throws {
        if changes.isEmpty { return }
        var batch = NftablesBatch(table: table)
        batch.append(changes)
        try transact(batch, writes: changes.count)
    }

    /// Puts rules at the end of a chain, in one transaction.
    public func append(_ rules: [[RuleExpression]], to chain: String) throws {
        if rules.isEmpty { return }
        var batch = NftablesBatch(table: table)
        for rule in rules { batch.append(rule, to: chain) }
        try transact(batch, writes: rules.count)
    }

    /// - Parameter writes: how many things of the kernel it changes.
    func transact(_ batch: consuming NftablesBatch, writes: Int) throws(SystemError) {
        let bytes = batch.finished()
        try KernelWrites.during(writes) { () throws(SystemError) in
            try box.withLock { box throws(SystemError) in try box.socket.transact(bytes) }
        }
    }

    /// - Returns: none where there is no such set.
    public func read(_ set: String) throws -> [SetElement] {
        var elements: [SetElement] = []
        do {
            try dump {
                .elements(of: set, table: table)
            } restart: {
                elements = []
            } visit: { attributes in
                guard let list = attributes[NFTA_SET_ELEM_LIST_ELEMENTS.rawValue] else { return }
                for element in list.nested { SetElement(element.nested).map { elements.append($0) } }
            }
        } catch let error as SystemError where error.errno == ENOENT {
            return []
        }
        return elements
    }

    /// Whether the set has the key, be it within an interval.
    public func contains(_ key: [UInt8], in set: String) throws -> Bool { try element(key, of: set) != nil }

    /// - Returns: the element that has the key; `nil` where there is none, or no such set.
    public func element(_ key: [UInt8], of set: String) throws -> SetElement? {
        var found: SetElement?
        do {
            try box.withLock { box in
                try box.socket.get(.element(key, of: set, table: table)) { reply in
                    let list = reply.attributes(after: nfgenmsg.self)[NFTA_SET_ELEM_LIST_ELEMENTS.rawValue]
                    for element in list?.nested ?? NetlinkAttributes() { found = found ?? SetElement(element.nested) }
                }
            }
        } catch let error as SystemError where error.errno == ENOENT {
            return nil
        }
        return found
    }

    /// - Throws: where there is no such table.
    func exists() throws {
        try box.withLock { box in
            try box.socket.get(.ofTable(table, NFT_MSG_GETTABLE, NFTA_TABLE_NAME.rawValue)) { _ in }
        }
    }

    func dump(
        _ message: () -> NetlinkMessage, restart: () -> Void, visit: (NetlinkAttributes) -> Void
    ) throws {
        try box.withLock { box in
            try box.socket.dump(message, restart: restart) { visit($0.attributes(after: nfgenmsg.self)) }
        }
    }
}

extension SetElement {
    fileprivate init?(_ attributes: NetlinkAttributes) {
        var (key, lastKey, value): ([UInt8]?, [UInt8]?, [UInt8]?) = (nil, nil, nil)
        var (verdict, isEnd): (RuleVerdict?, Bool) = (nil, false)
        for attribute in attributes {
            func data() -> [UInt8]? { attribute.nested[NFTA_DATA_VALUE.rawValue].map { Array($0.bytes) } }
            switch UInt32(attribute.type) {
            case NFTA_SET_ELEM_KEY.rawValue: key = data()
            case NFTA_SET_ELEM_KEY_END.rawValue: lastKey = data()
            case NFTA_SET_ELEM_DATA.rawValue:
                value = data()
                verdict = attribute.nested[NFTA_DATA_VERDICT.rawValue].flatMap { RuleVerdict($0.nested) }
            case NFTA_SET_ELEM_FLAGS.rawValue:
                let flags = attribute.integer(UInt32.self).map(UInt32.init(bigEndian:)) ?? 0
                isEnd = flags & NFT_SET_ELEM_INTERVAL_END.rawValue != 0
            default: break
            }
        }
        guard let key else { return nil }
        self.init(key: key, lastKey: lastKey, value: value, verdict: verdict, isEnd: isEnd)
    }
}

extension NetlinkMessage {
    fileprivate static func elements(of set: String, table: String) -> NetlinkMessage {
        var message = NetlinkMessage(
            "read elements of \(set)", type: Int(NFNL_SUBSYS_NFTABLES) << 8 | Int(NFT_MSG_GETSETELEM.rawValue))
        message.put(nfgenmsg(nfgen_family: NftablesBatch.inet, version: UInt8(NFNETLINK_V0), res_id: 0))
        message.put(NFTA_SET_ELEM_LIST_TABLE.rawValue, text: table)
        message.put(NFTA_SET_ELEM_LIST_SET.rawValue, text: set)
        return message
    }

    fileprivate static func element(_ key: [UInt8], of set: String, table: String) -> NetlinkMessage {
        var message = elements(of: set, table: table)
        message.nest(Int(NFTA_SET_ELEM_LIST_ELEMENTS.rawValue)) { message in
            message.nest(Int(NFTA_LIST_ELEM.rawValue)) { message in
                message.nest(Int(NFTA_SET_ELEM_KEY.rawValue)) { $0.put(NFTA_DATA_VALUE.rawValue, bytes: key) }
            }
        }
        return message
    }
}
