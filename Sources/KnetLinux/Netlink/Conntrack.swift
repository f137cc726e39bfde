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
    /// Only those of which no answer was seen. Kernels before 5.13 forget the others too.
    public var isUnanswered: Bool

    public init(
        transport: UInt8, destination: IPAddress? = nil, destinationPort: UInt16? = nil, answerer: IPAddress? = nil,
        isUnanswered: Bool = false
    ) {
        self.transport = transport
        self.destination = destination
        self.destinationPort = destinationPort
        self.answerer = answerer
        self.isUnanswered = isUnanswered
    }

    fileprivate var family: IPFamily { (destination ?? answerer)?.family ?? .v4 }

    /// By what filters are found.
    fileprivate struct Key: Hashable {
        let transport: UInt8
        let destination: IPAddress?
        let port: UInt16?
    }

    fileprivate var key: Key { Key(transport: transport, destination: destination, port: destinationPort) }
}

/// Connection tracking entries (nfnetlink_conntrack), in the network namespace of the thread that made this.
public final class Conntrack {
    private let socket: NetlinkSocket

    public init() throws { socket = try NetlinkSocket(bus: NETLINK_NETFILTER) }

    /// Has the kernel load connection tracking where it is a module: who asks about it causes that.
    public static func load() throws {
        try Conntrack().socket.dump {
            .statistics
        } restart: {
        } visit: { _ in
        }
    }

    /// Makes the kernel forget the connections; the next packet of each is looked at anew. That there are none is no
    /// error. For IPv4 the kernel does the selection (Linux 5.8), which reads its whole table for each filter; for IPv6 it
    /// takes equal addresses for different ones (`ctnetlink_filter_match_tuple` of net/netfilter/nf_conntrack_netlink.c,
    /// seen with Linux 6.18). So there, and where filters are many, the table is read once.
    public func forget(_ filters: [ConnectionFilter]) throws {
        var batch = NetlinkBatch()
        for (family, filters) in Dictionary(grouping: filters, by: \.family) {
            if family == .v4, filters.count <= Self.fewFilters {
                for filter in filters { batch.append(.forget(filter)) }
                continue
            }
            let known = Dictionary(grouping: filters, by: \.key)
            for connection in try connections(family) {
                let filters = connection.keys.lazy.compactMap { known[$0] }.joined()
                if filters.contains(where: connection.agrees) { batch.append(.forget(connection)) }
            }
        }
        for case let error? in try socket.send(batch) where error.errno != ENOENT { throw error }
    }

    private static let fewFilters = 4

    /// Makes the kernel forget all connections in which an address has a part: it began them, they were sent to it, or it answers.
    /// As above, the kernel selects for IPv4, and for IPv6 the table is read once.
    public func forget(of addresses: Set<IPAddress>) throws {
        var batch = NetlinkBatch()
        for address in addresses where address.family == .v4 {
            for end in NetlinkMessage.End.allCases { batch.append(.forget(address, end)) }
        }
        if addresses.contains(where: { $0.family == .v6 }) {
            for connection in try connections(.v6) where !addresses.isDisjoint(with: connection.ends) {
                batch.append(.forget(connection))
            }
        }
        for case let error? in try socket.send(batch) where error.errno != ENOENT { throw error }
    }

    private func connections(_ family: IPFamily) throws -> [Connection] {
        var connections: [Connection] = []
        try socket.dump {
            .connections(family)
        } restart: {
            connections = []
        } visit: { reply in
            Connection(reply, family).map { connections.append($0) }
        }
        return connections
    }
}

/// One way of a connection.
struct ConnectionTuple {
    let transport: UInt8
    let source: IPAddress
    let destination: IPAddress
    /// Of transports with ports.
    let sourcePort: UInt16?
    let destinationPort: UInt16?

    init?(_ tuple: NetlinkAttributes.Element, _ family: IPFamily) {
        let (source, destination) =
            family == .v4 ? (CTA_IP_V4_SRC, CTA_IP_V4_DST) : (CTA_IP_V6_SRC, CTA_IP_V6_DST)
        let addresses = tuple.nested[CTA_TUPLE_IP.rawValue]?.nested
        let transport = tuple.nested[CTA_TUPLE_PROTO.rawValue]?.nested
        guard let number = transport?[CTA_PROTO_NUM.rawValue]?.integer(UInt8.self),
            let source = addresses?[source.rawValue]?.address,
            let destination = addresses?[destination.rawValue]?.address
        else { return nil }
        self.transport = number
        self.source = source
        self.destination = destination
        sourcePort = transport?[CTA_PROTO_SRC_PORT.rawValue]?.integer(UInt16.self).map(UInt16.init(bigEndian:))
        destinationPort = transport?[CTA_PROTO_DST_PORT.rawValue]?.integer(UInt16.self).map(UInt16.init(bigEndian:))
    }
}

/// An entry of the table.
private struct Connection {
    let family: IPFamily
    let transport: UInt8
    let source: IPAddress
    let destination: IPAddress
    let destinationPort: UInt16?
    let answerer: IPAddress
    let isAnswered: Bool
    /// What tells the kernel which one is meant.
    let original: [UInt8]
    let id: [UInt8]?
    let zone: [UInt8]?

    init?(_ reply: NetlinkReply, _ family: IPFamily) {
        let attributes = reply.attributes(after: nfgenmsg.self)
        guard let original = attributes[CTA_TUPLE_ORIG.rawValue], let asked = ConnectionTuple(original, family),
            let answer = attributes[CTA_TUPLE_REPLY.rawValue].flatMap({ ConnectionTuple($0, family) })
        else { return nil }
        self.family = family
        transport = asked.transport
        source = asked.source
        destination = asked.destination
        destinationPort = asked.destinationPort
        answerer = answer.source
        let status = attributes[CTA_STATUS.rawValue]?.integer(UInt32.self).map(UInt32.init(bigEndian:)) ?? 0
        isAnswered = status & IPS_SEEN_REPLY.rawValue != 0
        self.original = Array(original.bytes)
        id = attributes[CTA_ID.rawValue].map { Array($0.bytes) }
        zone = attributes[CTA_ZONE.rawValue].map { Array($0.bytes) }
    }

    var ends: [IPAddress] { [source, destination, answerer] }

    /// Of the filters that may agree.
    var keys: [ConnectionFilter.Key] {
        [destination, nil].flatMap { destination in
            [destinationPort, nil].map { .init(transport: transport, destination: destination, port: $0) }
        }
    }

    /// Whether a filter of one of the `keys` does.
    func agrees(with filter: ConnectionFilter) -> Bool {
        (filter.answerer == nil || filter.answerer == answerer) && !(filter.isUnanswered && isAnswered)
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
    fileprivate static var statistics: NetlinkMessage {
        let type = Int(NFNL_SUBSYS_CTNETLINK) << 8 | Int(IPCTNL_MSG_CT_GET_STATS_CPU.rawValue)
        var message = NetlinkMessage("read statistics of connections", type: type)
        message.put(nfgenmsg(nfgen_family: UInt8(AF_UNSPEC), version: UInt8(NFNETLINK_V0), res_id: 0))
        return message
    }

    fileprivate static func connections(_ family: IPFamily) -> NetlinkMessage {
        let type = Int(NFNL_SUBSYS_CTNETLINK) << 8 | Int(IPCTNL_MSG_CT_GET.rawValue)
        var message = NetlinkMessage("read connections", type: type)
        message.put(nfgenmsg(nfgen_family: family.socketFamily, version: UInt8(NFNETLINK_V0), res_id: 0))
        return message
    }

    fileprivate static func forget(_ connection: Connection) -> NetlinkMessage {
        let type = Int(NFNL_SUBSYS_CTNETLINK) << 8 | Int(IPCTNL_MSG_CT_DELETE.rawValue)
        var message = NetlinkMessage("forget a connection", type: type)
        message.put(nfgenmsg(nfgen_family: connection.family.socketFamily, version: UInt8(NFNETLINK_V0), res_id: 0))
        message.put(Int(CTA_TUPLE_ORIG.rawValue) | Int(NLA_F_NESTED), bytes: connection.original)
        if let id = connection.id { message.put(CTA_ID.rawValue, bytes: id) }
        if let zone = connection.zone { message.put(CTA_ZONE.rawValue, bytes: zone) }
        return message
    }

    /// What part an IPv4 address has in a connection.
    fileprivate enum End: CaseIterable { case source, destination, answerer }

    fileprivate static func forget(_ address: IPAddress, _ end: End) -> NetlinkMessage {
        let type = Int(NFNL_SUBSYS_CTNETLINK) << 8 | Int(IPCTNL_MSG_CT_DELETE.rawValue)
        var message = NetlinkMessage("forget connections of \(address)", type: type)
        message.put(nfgenmsg(nfgen_family: address.family.socketFamily, version: UInt8(NFNETLINK_V0), res_id: 0))
        let (tuple, part) =
            end == .answerer ? (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS) : (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS)
        let other = end == .answerer ? CTA_FILTER_ORIG_FLAGS : CTA_FILTER_REPLY_FLAGS
        message.nest(tuple.rawValue) {
            $0.nest(CTA_TUPLE_IP.rawValue) {
                $0.put((end == .destination ? CTA_IP_V4_DST : CTA_IP_V4_SRC).rawValue, bytes: address.bytes)
            }
        }
        message.nest(CTA_FILTER.rawValue) {
            $0.put(part.rawValue, end == .destination ? TuplePart.destination : TuplePart.source)
            $0.put(other.rawValue, UInt32(0))
        }
        return message
    }

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
        if filter.isUnanswered {
            message.put(CTA_STATUS.rawValue, UInt32(0))
            message.put(CTA_STATUS_MASK.rawValue, IPS_SEEN_REPLY.rawValue.bigEndian)
        }
        message.nest(CTA_FILTER.rawValue) {
            $0.put(CTA_FILTER_ORIG_FLAGS.rawValue, original)
            $0.put(CTA_FILTER_REPLY_FLAGS.rawValue, filter.answerer == nil ? 0 : TuplePart.source)
        }
        return message
    }
}
