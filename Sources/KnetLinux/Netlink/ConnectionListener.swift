import CMnl
import Glibc
public import KnetCore
import Synchronization

/// What the kernel's connection tracking tells of a connection that has begun or is forgotten.
public struct TrackedConnection: Sendable {
    public let isNew: Bool
    /// IANA's number.
    public let transport: UInt8
    public let source: FlowEvent.End
    /// Where the first packet was sent to.
    public let asked: FlowEvent.End
    /// Who answers, after all translation.
    public let answerer: FlowEvent.End
    /// Of both ways, where `net.netfilter.nf_conntrack_acct` is set.
    public let counts: (sent: FlowEvent.Count, answered: FlowEvent.Count)?

    init?(_ reply: NetlinkReply) {
        let (new, gone) = (Int(IPCTNL_MSG_CT_NEW.rawValue), Int(IPCTNL_MSG_CT_DELETE.rawValue))
        let subsystem = Int(NFNL_SUBSYS_CTNETLINK) << 8
        guard reply.type == subsystem | new || reply.type == subsystem | gone,
            let family = reply.fixed(nfgenmsg.self).flatMap({ IPFamily(socketFamily: $0.nfgen_family) })
        else { return nil }
        let attributes = reply.attributes(after: nfgenmsg.self)
        guard let original = attributes[CTA_TUPLE_ORIG.rawValue].flatMap({ ConnectionTuple($0, family) }),
            let answer = attributes[CTA_TUPLE_REPLY.rawValue].flatMap({ ConnectionTuple($0, family) })
        else { return nil }
        isNew = reply.type == subsystem | new
        transport = original.transport
        source = .init(original.source, port: original.sourcePort)
        asked = .init(original.destination, port: original.destinationPort)
        answerer = .init(answer.source, port: answer.sourcePort)
        func count(_ attribute: NetlinkAttributes.Element?) -> FlowEvent.Count? {
            guard let packets = attribute?.nested[CTA_COUNTERS_PACKETS.rawValue]?.integer(UInt64.self),
                let bytes = attribute?.nested[CTA_COUNTERS_BYTES.rawValue]?.integer(UInt64.self)
            else { return nil }
            return .init(packets: UInt64(bigEndian: packets), bytes: UInt64(bigEndian: bytes))
        }
        if let sent = count(attributes[CTA_COUNTERS_ORIG.rawValue]),
            let answered = count(attributes[CTA_COUNTERS_REPLY.rawValue])
        {
            counts = (sent, answered)
        } else {
            counts = nil
        }
    }
}

/// Listens to what connection tracking tells, on a thread of its own, in the process's network namespace.
public final class ConnectionListener: Sendable {
    private let visit: @Sendable (TrackedConnection) -> Void
    private let reason = Mutex<String?>(nil)
    private let lost = Atomic(0)
    private let isOver = Atomic(false)

    private static let buffer: Int32 = 8 << 20

    /// - Parameter visit: called for each connection from the listener's thread.
    public init(_ visit: @escaping @Sendable (TrackedConnection) -> Void) { self.visit = visit }

    /// Why nothing is heard.
    public var fault: String? { reason.withLock { $0 } }

    /// How often the kernel told more than was read in time.
    public var losses: Int { lost.load(ordering: .relaxed) }

    /// Listens until the task is cancelled, once: a task that is cancelled before it starts has listened.
    public func run() async {
        await withTaskCancellationHandler {
            try? await onOwnThread("knetd-conntrack") { self.listen() }
        } onCancel: {
            isOver.store(true, ordering: .relaxed)
        }
    }

    private func listen() {
        let socket: SharedDescriptor
        do {
            let groups = [NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY].map { Int32($0.rawValue) }
            socket = try NetlinkMonitor.open(NETLINK_NETFILTER, groups: groups, Self.buffer)
        } catch {
            return reason.withLock { $0 = "connections are not told: \(error)" }
        }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 16, alignment: 8)
        defer { buffer.deallocate() }
        while !isOver.load(ordering: .relaxed) {
            var waiting = pollfd(fd: socket.number, events: Int16(POLLIN), revents: 0)
            guard poll(&waiting, 1, 200) > 0 else { continue }
            let count = recv(socket.number, buffer.baseAddress, buffer.count, Int32(MSG_DONTWAIT))
            if count < 0 {
                if errno == ENOBUFS { lost.add(1, ordering: .relaxed) }
                continue
            }
            try? NetlinkSocket.visit(UnsafeRawBufferPointer(rebasing: buffer[..<count])) { reply in
                if let connection = TrackedConnection(reply) { visit(connection) }
                return true
            }
        }
    }
}
