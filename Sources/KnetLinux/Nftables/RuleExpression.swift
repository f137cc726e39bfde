import CMnl
public import KnetCore

/// What a rule decides.
public enum RuleVerdict: Hashable, Sendable {
    case accept, drop
    /// Back to the chain that jumped here.
    case `return`
    case jump(String)
    case goto(String)

    private var code: Int32 {
        switch self {
        // NF_ACCEPT and NF_DROP of <linux/netfilter.h>, which cannot be read beside glibc's <netinet/in.h>.
        case .drop: 0
        case .accept: 1
        case .return: NFT_RETURN.rawValue
        case .jump: NFT_JUMP.rawValue
        case .goto: NFT_GOTO.rawValue
        }
    }

    private var chain: String? {
        switch self {
        case .jump(let chain), .goto(let chain): chain
        case .accept, .drop, .return: nil
        }
    }

    func write(_ batch: inout NftablesBatch) {
        batch.nest(NFTA_DATA_VERDICT.rawValue) {
            $0.put(NFTA_VERDICT_CODE.rawValue, code)
            if let chain { $0.put(NFTA_VERDICT_CHAIN.rawValue, text: chain) }
        }
    }

    init?(_ attributes: NetlinkAttributes) {
        guard let code = attributes[NFTA_VERDICT_CODE.rawValue]?.integer(Int32.self).map(Int32.init(bigEndian:)) else {
            return nil
        }
        let chain = attributes[NFTA_VERDICT_CHAIN.rawValue]?.text ?? ""
        let all: [RuleVerdict] = [.accept, .drop, .return, .jump(chain), .goto(chain)]
        guard let verdict = all.first(where: { $0.code == code }) else { return nil }
        self = verdict
    }
}

/// One step of a rule, as the kernel has it. It serves where libnftables cannot write a rule (Debian 12's 1.0.6 aborts over a dynamic map
/// whose key is longer than sixteen bytes), and where rules come and go in one transaction with elements. Registers have four bytes
/// and go from 0 to 15 (<linux/netfilter/nf_tables.h>).
public enum RuleExpression: Hashable, Sendable {
    /// Goes on where the packet is of this family, `NFPROTO_*`.
    case isFamily(UInt8)
    /// Goes on where the packet is of this transport, by IANA's number.
    case isTransport(UInt8)
    case transport(to: UInt32)
    /// Goes on where the packet came by an interface whose name begins so.
    case isFrom(interfaces: String)
    /// Goes on where the packet leaves by an interface whose name begins so.
    case isTo(interfaces: String)
    /// The name of the interface by which the packet came: four registers.
    case interface(to: UInt32)
    /// The name of the interface by which the packet leaves: four registers.
    case leaving(to: UInt32)
    /// Goes on where the connection is in one of these states, bits of `NF_CT_STATE_BIT`.
    case isConnection(UInt32)
    /// Goes on where the packet goes to the one who began the connection.
    case isReply
    /// Bytes of the network header.
    case networkHeader(offset: UInt32, length: UInt32, to: UInt32)
    case transportHeader(offset: UInt32, length: UInt32, to: UInt32)
    /// Goes on where the register's first byte is within the range.
    case isByte(ClosedRange<UInt8>, at: UInt32)
    /// Where a connection's first packet was sent to.
    case originalDestination(isIPv6: Bool, to: UInt32)
    case originalDestinationPort(to: UInt32)
    /// Goes on where the set has what begins at the register.
    case isElement(of: String, at: UInt32)
    case isNoElement(of: String, at: UInt32)
    /// Adds an element, or renews one.
    case update(map: String, key: UInt32, value: UInt32, milliseconds: UInt64)
    /// Decides as the map says of what begins at the register; goes on where it says nothing.
    case lookUpVerdict(map: String, at: UInt32)
    case count(String)
    /// Goes on for so many packets a second, and for so many at once.
    case limit(perSecond: UInt64, burst: UInt32)
    /// Tells listeners of the group so many bytes of the packet (nfnetlink_log).
    case log(prefix: String, group: UInt16, bytes: UInt32)
    case verdict(RuleVerdict)

    /// States of a connection (<linux/netfilter/nf_conntrack_common.h>).
    public static let established: UInt32 = 1 << 1
    public static let related: UInt32 = 1 << 2

    /// The sender's or receiver's address, which takes one register or four.
    public static func address(_ family: IPFamily, isSource: Bool, to target: UInt32) -> RuleExpression {
        family == .v4
            ? .networkHeader(offset: isSource ? 12 : 16, length: 4, to: target)
            : .networkHeader(offset: isSource ? 8 : 24, length: 16, to: target)
    }

    /// NFPROTO_IPV4 and NFPROTO_IPV6 of <linux/netfilter.h>.
    public static func isFamily(_ family: IPFamily) -> RuleExpression { .isFamily(family == .v4 ? 2 : 10) }

    func write(_ batch: inout NftablesBatch) {
        switch self {
        case .isFamily(let number):
            batch.meta(NFT_META_NFPROTO, to: 0)
            batch.compare(0, NFT_CMP_EQ, [number])
        case .isTransport(let number):
            batch.meta(NFT_META_L4PROTO, to: 0)
            batch.compare(0, NFT_CMP_EQ, [number])
        case .transport(let target): batch.meta(NFT_META_L4PROTO, to: target)
        case .isFrom(let prefix):
            batch.meta(NFT_META_IIFNAME, to: 0)
            batch.compare(0, NFT_CMP_EQ, Array(prefix.utf8))
        case .isTo(let prefix):
            batch.meta(NFT_META_OIFNAME, to: 0)
            batch.compare(0, NFT_CMP_EQ, Array(prefix.utf8))
        case .interface(let target): batch.meta(NFT_META_IIFNAME, to: target)
        case .leaving(let target): batch.meta(NFT_META_OIFNAME, to: target)
        case .isConnection(let states):
            batch.connection(NFT_CT_STATE, to: 0)
            batch.expression("bitwise") {
                $0.put(NFTA_BITWISE_SREG.rawValue, NftablesBatch.register(0))
                $0.put(NFTA_BITWISE_DREG.rawValue, NftablesBatch.register(0))
                $0.put(NFTA_BITWISE_LEN.rawValue, UInt32(4))
                $0.put(NFTA_BITWISE_MASK.rawValue, value: withUnsafeBytes(of: states) { Array($0) })
                $0.put(NFTA_BITWISE_XOR.rawValue, value: [0, 0, 0, 0])
            }
            batch.compare(0, NFT_CMP_NEQ, [0, 0, 0, 0])
        case .isReply:
            batch.connection(NFT_CT_DIRECTION, to: 0)
            // IP_CT_DIR_REPLY of <linux/netfilter/nf_conntrack_tuple_common.h>.
            batch.compare(0, NFT_CMP_EQ, [1])
        case .networkHeader(let offset, let length, let target):
            batch.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length, target)
        case .transportHeader(let offset, let length, let target):
            batch.payload(NFT_PAYLOAD_TRANSPORT_HEADER, offset, length, target)
        case .isByte(let range, let source):
            if range.count == 1 { return batch.compare(source, NFT_CMP_EQ, [range.lowerBound]) }
            batch.expression("range") {
                $0.put(NFTA_RANGE_SREG.rawValue, NftablesBatch.register(source))
                $0.put(NFTA_RANGE_OP.rawValue, UInt32(NFT_RANGE_EQ.rawValue))
                $0.put(NFTA_RANGE_FROM_DATA.rawValue, value: [range.lowerBound])
                $0.put(NFTA_RANGE_TO_DATA.rawValue, value: [range.upperBound])
            }
        case .originalDestination(let isIPv6, let target):
            batch.connection(isIPv6 ? NFT_CT_DST_IP6 : NFT_CT_DST_IP, isOriginal: true, to: target)
        case .originalDestinationPort(let target):
            batch.connection(NFT_CT_PROTO_DST, isOriginal: true, to: target)
        case .isElement(let set, let source): batch.lookUp(set, at: source)
        case .isNoElement(let set, let source): batch.lookUp(set, at: source, isInverted: true)
        case .update(let map, let key, let value, let milliseconds):
            batch.expression("dynset") {
                $0.put(NFTA_DYNSET_SET_NAME.rawValue, text: map)
                $0.put(NFTA_DYNSET_OP.rawValue, UInt32(NFT_DYNSET_OP_UPDATE.rawValue))
                $0.put(NFTA_DYNSET_SREG_KEY.rawValue, NftablesBatch.register(key))
                $0.put(NFTA_DYNSET_SREG_DATA.rawValue, NftablesBatch.register(value))
                $0.put(NFTA_DYNSET_TIMEOUT.rawValue, milliseconds)
            }
        case .lookUpVerdict(let map, let source): batch.lookUp(map, at: source, isVerdict: true)
        case .count(let name):
            batch.expression("objref") {
                $0.put(NFTA_OBJREF_IMM_TYPE.rawValue, UInt32(NFT_OBJECT_COUNTER))
                $0.put(NFTA_OBJREF_IMM_NAME.rawValue, text: name)
            }
        case .limit(let rate, let burst):
            batch.expression("limit") {
                $0.put(NFTA_LIMIT_RATE.rawValue, rate)
                $0.put(NFTA_LIMIT_UNIT.rawValue, UInt64(1))
                $0.put(NFTA_LIMIT_BURST.rawValue, burst)
                $0.put(NFTA_LIMIT_TYPE.rawValue, UInt32(NFT_LIMIT_PKTS.rawValue))
            }
        case .log(let prefix, let group, let bytes):
            batch.expression("log") {
                $0.put(NFTA_LOG_GROUP.rawValue, group)
                $0.put(NFTA_LOG_PREFIX.rawValue, text: prefix)
                $0.put(NFTA_LOG_SNAPLEN.rawValue, bytes)
            }
        case .verdict(let verdict):
            batch.expression("immediate") {
                $0.put(NFTA_IMMEDIATE_DREG.rawValue, UInt32(NFT_REG_VERDICT.rawValue))
                $0.nest(NFTA_IMMEDIATE_DATA.rawValue) { verdict.write(&$0) }
            }
        }
    }
}

extension NftablesBatch {
    static func register(_ number: UInt32) -> UInt32 { UInt32(NFT_REG32_00.rawValue) + number }

    fileprivate mutating func meta(_ key: nft_meta_keys, to target: UInt32) {
        expression("meta") {
            $0.put(NFTA_META_KEY.rawValue, UInt32(key.rawValue))
            $0.put(NFTA_META_DREG.rawValue, Self.register(target))
        }
    }

    fileprivate mutating func compare(_ source: UInt32, _ operation: nft_cmp_ops, _ value: [UInt8]) {
        expression("cmp") {
            $0.put(NFTA_CMP_SREG.rawValue, Self.register(source))
            $0.put(NFTA_CMP_OP.rawValue, UInt32(operation.rawValue))
            $0.put(NFTA_CMP_DATA.rawValue, value: value)
        }
    }

    fileprivate mutating func payload(
        _ base: nft_payload_bases, _ offset: UInt32, _ length: UInt32, _ target: UInt32
    ) {
        expression("payload") {
            $0.put(NFTA_PAYLOAD_DREG.rawValue, Self.register(target))
            $0.put(NFTA_PAYLOAD_BASE.rawValue, UInt32(base.rawValue))
            $0.put(NFTA_PAYLOAD_OFFSET.rawValue, offset)
            $0.put(NFTA_PAYLOAD_LEN.rawValue, length)
        }
    }

    fileprivate mutating func connection(_ key: nft_ct_keys, isOriginal: Bool = false, to target: UInt32) {
        expression("ct") {
            $0.put(NFTA_CT_KEY.rawValue, UInt32(key.rawValue))
            $0.put(NFTA_CT_DREG.rawValue, Self.register(target))
            // IP_CT_DIR_ORIGINAL of <linux/netfilter/nf_conntrack_tuple_common.h>.
            if isOriginal { $0.put(NFTA_CT_DIRECTION.rawValue, UInt8(0)) }
        }
    }

    fileprivate mutating func lookUp(
        _ set: String, at source: UInt32, isInverted: Bool = false, isVerdict: Bool = false
    ) {
        expression("lookup") {
            $0.put(NFTA_LOOKUP_SET.rawValue, text: set)
            $0.put(NFTA_LOOKUP_SREG.rawValue, Self.register(source))
            if isVerdict { $0.put(NFTA_LOOKUP_DREG.rawValue, UInt32(NFT_REG_VERDICT.rawValue)) }
            if isInverted { $0.put(NFTA_LOOKUP_FLAGS.rawValue, UInt32(NFT_LOOKUP_F_INV.rawValue)) }
        }
    }
}
