import CMnl

/// One step of a rule, for rules that libnftables cannot write: Debian 12's (1.0.6) aborts over a dynamic map whose key is longer
/// than sixteen bytes. Registers have four bytes and go from 0 to 15 (<linux/netfilter/nf_tables.h>).
public enum RuleExpression: Sendable {
    /// Goes on where the packet is of this family, `NFPROTO_*`.
    case isFamily(UInt8)
    /// Goes on where the packet is of this transport, by IANA's number.
    case isTransport(UInt8)
    /// Bytes of the network header.
    case networkHeader(offset: UInt32, length: UInt32, to: UInt32)
    case transportHeader(offset: UInt32, length: UInt32, to: UInt32)
    /// Where a connection's first packet was sent to.
    case originalDestination(isIPv6: Bool, to: UInt32)
    case originalDestinationPort(to: UInt32)
    /// Goes on where the set has what begins at the register.
    case isElement(of: String, at: UInt32)
    /// Adds an element, or renews one.
    case update(map: String, key: UInt32, value: UInt32, milliseconds: UInt64)

    func write(_ batch: inout NftablesBatch) {
        func register(_ number: UInt32) -> UInt32 { UInt32(NFT_REG32_00.rawValue) + number }
        func meta(_ key: nft_meta_keys, is value: UInt8) {
            batch.expression("meta") {
                $0.put(NFTA_META_KEY.rawValue, UInt32(key.rawValue))
                $0.put(NFTA_META_DREG.rawValue, register(0))
            }
            batch.expression("cmp") {
                $0.put(NFTA_CMP_SREG.rawValue, register(0))
                $0.put(NFTA_CMP_OP.rawValue, UInt32(NFT_CMP_EQ.rawValue))
                $0.put(NFTA_CMP_DATA.rawValue, value: [value])
            }
        }
        func payload(_ base: nft_payload_bases, _ offset: UInt32, _ length: UInt32, _ target: UInt32) {
            batch.expression("payload") {
                $0.put(NFTA_PAYLOAD_DREG.rawValue, register(target))
                $0.put(NFTA_PAYLOAD_BASE.rawValue, UInt32(base.rawValue))
                $0.put(NFTA_PAYLOAD_OFFSET.rawValue, offset)
                $0.put(NFTA_PAYLOAD_LEN.rawValue, length)
            }
        }
        func original(_ key: nft_ct_keys, _ target: UInt32) {
            batch.expression("ct") {
                $0.put(NFTA_CT_KEY.rawValue, UInt32(key.rawValue))
                $0.put(NFTA_CT_DREG.rawValue, register(target))
                // IP_CT_DIR_ORIGINAL of <linux/netfilter/nf_conntrack_tuple_common.h>.
                $0.put(NFTA_CT_DIRECTION.rawValue, UInt8(0))
            }
        }
        switch self {
        case .isFamily(let number): meta(NFT_META_NFPROTO, is: number)
        case .isTransport(let number): meta(NFT_META_L4PROTO, is: number)
        case .networkHeader(let offset, let length, let target):
            payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length, target)
        case .transportHeader(let offset, let length, let target):
            payload(NFT_PAYLOAD_TRANSPORT_HEADER, offset, length, target)
        case .originalDestination(let isIPv6, let target): original(isIPv6 ? NFT_CT_DST_IP6 : NFT_CT_DST_IP, target)
        case .originalDestinationPort(let target): original(NFT_CT_PROTO_DST, target)
        case .isElement(let set, let source):
            batch.expression("lookup") {
                $0.put(NFTA_LOOKUP_SET.rawValue, text: set)
                $0.put(NFTA_LOOKUP_SREG.rawValue, register(source))
            }
        case .update(let map, let key, let value, let milliseconds):
            batch.expression("dynset") {
                $0.put(NFTA_DYNSET_SET_NAME.rawValue, text: map)
                $0.put(NFTA_DYNSET_OP.rawValue, UInt32(NFT_DYNSET_OP_UPDATE.rawValue))
                $0.put(NFTA_DYNSET_SREG_KEY.rawValue, register(key))
                $0.put(NFTA_DYNSET_SREG_DATA.rawValue, register(value))
                $0.put(NFTA_DYNSET_TIMEOUT.rawValue, milliseconds)
            }
        }
    }
}
