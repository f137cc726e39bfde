import CMnl
import Glibc
public import KnetCore

/// Connections that the kernel should forget: all that agree with what is given.
public struct ConnectionFilter: Hashable, Sendable {
    /// IANA's number.
    public var transport: UInt8
    /// Where the first packet was sent to, before any translation.
    public var destination: IPAddress?
    public var destinationPort: UInt16?
    /// Who answers, after all translation.
    public var answerer: IPAddress?

    public init(
        transport: UInt8, destination: IPAddress? = nil, destinationPort: UInt16? = nil, answerer: IPAddress? = nil
    ) {
        self.transport = transport
        self.destination = destination
        self.destinationPort = destinationPort
        self.answerer = answerer
    }

    fileprivate var family: IPFamily { (destination ?? answerer)?.family ?? .v4 }
}

/// Connection tracking entries (nfnetlink_conntrack), in the network namespace of the thread that made this.
public final class Conntrack {
    private let socket: NetlinkSocket

    public init() throws { socket = try NetlinkSocket(bus: NETLINK_NETFILTER) }

    /// Makes the kernel forget the connections; the next packet of each is looked at anew. That there are none is no
    /// error. The kernel does the selection (Linux 5.8).
    public func forget(_ filters: [ConnectionFilter]) throws {
        var batch = NetlinkBatch()
        for filter in filters { batch.append(.forget(filter)) }
        for case let error? in try socket.send(batch) where error.errno != ENOENT { throw error }
    }
}

/// CTA_FILTER_F_* of the kernel's net/netfilter/nf_internals.h: the parts of a tuple that count.
private enum TuplePart {
    static let source: UInt32 = 1 << 0
    static let destination: UInt32 = 1 << 1
    static let transport: UInt32 = 1 << 3
    static let destinationPort: UInt32 = 1 << 5
}

extension NetlinkMessage {
    fileprivate static func forget(_ filter: ConnectionFilter) -> NetlinkMessage {
        let type = Int(NFNL_SUBSYS_CTNETLINK) << 8 | Int(IPCTNL_MSG_CT_DELETE.rawValue)
        var message = NetlinkMessage("forget connections", type: type)
        message.put(
            nfgenmsg(nfgen_family: filter.family.socketFamily, version: UInt8(NFNETLINK_V0), res_id: 0))
        var original = TuplePart.transport
        if filter.destination != nil { original |= TuplePart.destination }
        if filter.destinationPort != nil { original |= TuplePart.destinationPort }
        message.nest(CTA_TUPLE_ORIG.rawValue) { tuple in
            if let address = filter.destination {
                tuple.nest(CTA_TUPLE_IP.rawValue) {
                    $0.put((address.family == .v4 ? CTA_IP_V4_DST : CTA_IP_V6_DST).rawValue, bytes: address.bytes)
                }
            }
            tuple.nest(CTA_TUPLE_PROTO.rawValue) {
                $0.put(CTA_PROTO_NUM.rawValue, filter.transport)
                if let port = filter.destinationPort { $0.put(CTA_PROTO_DST_PORT.rawValue, port.bigEndian) }
            }
        }
        if let address = filter.answerer {
            message.nest(CTA_TUPLE_REPLY.rawValue) { tuple in
                tuple.nest(CTA_TUPLE_IP.rawValue) {
                    $0.put((address.family == .v4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC).rawValue, bytes: address.bytes)
                }
            }
        }
        message.nest(CTA_FILTER.rawValue) {
            $0.put(CTA_FILTER_ORIG_FLAGS.rawValue, original)
            $0.put(CTA_FILTER_REPLY_FLAGS.rawValue, filter.answerer == nil ? 0 : TuplePart.source)
        }
        return message
    }
}
