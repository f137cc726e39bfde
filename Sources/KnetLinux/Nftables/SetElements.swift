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

/// The bytes of a transaction.
private struct NftablesBatch {
    private let table: String
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

    mutating func append(_ elements: [SetElement], of set: String, isRemoval: Bool) {
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

    private mutating func append(_ element: SetElement, isRemoval: Bool) {
        func data(_ type: UInt32, _ value: [UInt8], _ batch: inout NftablesBatch) {
            batch.attribute(type, isNest: true) { $0.attribute(NFTA_DATA_VALUE.rawValue) { $0.bytes += value } }
        }
        attribute(NFTA_LIST_ELEM.rawValue, isNest: true) { batch in
            data(NFTA_SET_ELEM_KEY.rawValue, element.key, &batch)
            if let lastKey = element.lastKey { data(NFTA_SET_ELEM_KEY_END.rawValue, lastKey, &batch) }
            if let value = element.value, !isRemoval { data(NFTA_SET_ELEM_DATA.rawValue, value, &batch) }
        }
    }

    /// The transaction, whose last request asks for an acknowledgement.
    consuming func finished() -> [UInt8] {
        let flags = UInt16(NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK)
        let isAddition =
            bytes[last + 6] & UInt8(NLM_F_REQUEST) != 0 && bytes[last + 7] & UInt8(UInt16(NLM_F_CREATE) >> 8) != 0
        withUnsafeBytes(of: isAddition ? flags : flags & ~UInt16(NLM_F_CREATE)) {
            bytes.replaceSubrange(last + 6..<last + 8, with: $0)
        }
        message(Int(NFNL_MSG_BATCH_END), flags: 0, family: UInt8(AF_UNSPEC), resource: UInt16(NFNL_SUBSYS_NFTABLES)) {
            _ in
        }
        return bytes
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

    private mutating func append(_ number: some FixedWidthInteger) {
        withUnsafeBytes(of: number) { bytes.append(contentsOf: $0) }
    }
}
