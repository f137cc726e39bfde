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

    public init(key: [UInt8], lastKey: [UInt8]? = nil, value: [UInt8]? = nil) {
        self.key = key
        self.lastKey = lastKey
        self.value = value
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
    private let table: String
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
        for (set, elements) in changes.removed { batch.append(elements, of: set, isRemoval: true) }
        for (set, elements) in changes.added { batch.append(elements, of: set, isRemoval: false) }
        let bytes = batch.finished()
        try KernelWrites.during(changes.count) { () throws(SystemError) in
            try box.withLock { box throws(SystemError) in try box.socket.transact(bytes) }
        }
    }

    /// Puts rules at the end of a chain, in one transaction.
    public func append(_ rules: [[RuleExpression]], to chain: String) throws {
        if rules.isEmpty { return }
        var batch = NftablesBatch(table: table)
        for rule in rules { batch.append(rule, to: chain) }
        let bytes = batch.finished()
        try KernelWrites.during(rules.count) { () throws(SystemError) in
            try box.withLock { box throws(SystemError) in try box.socket.transact(bytes) }
        }
    }

    /// - Returns: none where there is no such set.
    public func read(_ set: String) throws -> [SetElement] {
        var elements: [SetElement] = []
        do {
            try box.withLock { box in
                try box.socket.dump {
                    .elements(of: set, table: table)
                } restart: {
                    elements = []
                } visit: { reply in
                    guard let list = reply.attributes(after: nfgenmsg.self)[NFTA_SET_ELEM_LIST_ELEMENTS.rawValue] else {
                        return
                    }
                    for element in list.nested { SetElement(element.nested).map { elements.append($0) } }
                }
            }
        } catch let error as SystemError where error.errno == ENOENT {
            return []
        }
        return elements
    }
}

extension SetElement {
    fileprivate init?(_ attributes: NetlinkAttributes) {
        var (key, lastKey, value): ([UInt8]?, [UInt8]?, [UInt8]?) = (nil, nil, nil)
        for attribute in attributes {
            func data() -> [UInt8]? { attribute.nested[NFTA_DATA_VALUE.rawValue].map { Array($0.bytes) } }
            switch UInt32(attribute.type) {
            case NFTA_SET_ELEM_KEY.rawValue: key = data()
            case NFTA_SET_ELEM_KEY_END.rawValue: lastKey = data()
            case NFTA_SET_ELEM_DATA.rawValue: value = data()
            default: break
            }
        }
        guard let key else { return nil }
        self.init(key: key, lastKey: lastKey, value: value)
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
}
