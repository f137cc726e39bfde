public import CMnl
import Glibc
import Synchronization

/// A netlink socket for requests, bound to the network namespace of the thread that opened it. Not for use by two
/// threads at once.
public final class NetlinkSocket {
    private let socket: OpaquePointer
    private let receiveBuffer: UnsafeMutableRawBufferPointer
    private var sequence: UInt32 = 0
    public let portID: UInt32

    /// Requests that are sent before their answers are read: few enough that the answers fit the receive buffer.
    private static let window = 64
    /// Of one table, until one is consistent: within three seconds.
    private static let dumps = 32
    /// Of a table that changes as links come and go, until one is consistent: within milliseconds.
    private static let linkDumps = 4

    public init(bus: Int32 = NETLINK_ROUTE) throws {
        guard let socket = mnl_socket_open2(bus, Int32(SOCK_CLOEXEC.rawValue)) else {
            throw SystemError("netlink socket")
        }
        self.socket = socket
        receiveBuffer = .allocate(byteCount: 1 << 15, alignment: 8)
        guard mnl_socket_bind(socket, 0, 0) == 0 else {
            let error = SystemError("netlink bind")
            mnl_socket_close(socket)
            receiveBuffer.deallocate()
            throw error
        }
        portID = mnl_socket_get_portid(socket)
        // Older kernels lack these; then errors are terser and dumps longer, nothing else.
        var one: Int32 = 1
        for option in [NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK] {
            mnl_socket_setsockopt(socket, Int32(option), &one, socklen_t(MemoryLayout<Int32>.size))
        }
    }

    deinit {
        mnl_socket_close(socket)
        receiveBuffer.deallocate()
    }

    /// Sends one request and waits for its acknowledgement.
    public func request(_ message: consuming NetlinkMessage) throws {
        var batch = NetlinkBatch()
        batch.append(message)
        if let error = try send(batch)[0] { throw error }
    }

    /// Sends the batch and waits for every acknowledgement.
    /// - Returns: the kernel's error for each request, in order; `nil` where it was done.
    public func send(_ batch: borrowing NetlinkBatch) throws -> [SystemError?] {
        var errors = [SystemError?](repeating: nil, count: batch.count)
        var next = 0
        while next < batch.count {
            let range = next..<min(next + Self.window, batch.count)
            let first = sequence &+ 1
            sequence &+= UInt32(range.count)
            var bytes: [UInt8] = []
            batch.serialise(range, firstSequence: first, into: &bytes)
            try KernelWrites.during(range.count) { () throws(SystemError) in
                try syscall("netlink send") { mnl_socket_sendto(socket, bytes, bytes.count) }
            }
            try collectAcknowledgements(count: range.count, first: first) { index, error in
                errors[range.lowerBound + index] = error
            } purpose: {
                batch.purpose(range.lowerBound + $0)
            }
            next = range.upperBound
        }
        return errors
    }

    /// Sends a transaction of nf_tables, of which the last request alone asks for an acknowledgement.
    /// - Throws: the first thing that the kernel refused of it.
    func transact(_ bytes: [UInt8]) throws(SystemError) {
        try syscall("netlink send") { mnl_socket_sendto(socket, bytes, bytes.count) }
        // The kernel works through it before the call above returns; all answers are there.
        var refusal: SystemError?
        var isAnswered = false
        while true {
            let count = recv(
                mnl_socket_get_fd(socket), receiveBuffer.baseAddress, receiveBuffer.count, Int32(MSG_DONTWAIT))
            if count < 0 {
                if errno == EINTR { continue }
                if errno == EAGAIN, isAnswered { break }
                throw SystemError("netlink receive", errno: errno)
            }
            let datagram = UnsafeRawBufferPointer(rebasing: receiveBuffer[..<count])
            try? Self.visit(datagram) { reply in
                guard reply.type == Int(NLMSG_ERROR), let (number, detail) = Self.outcome(of: reply) else {
                    return true
                }
                isAnswered = true
                if number != 0, refusal == nil {
                    refusal = SystemError("change elements", errno: number, detail: detail)
                }
                return true
            }
        }
        if let refusal { throw refusal }
    }

    /// Room for large datagrams, beyond what the system allows everybody.
    func setBuffers(bytes: Int32) throws(SystemError) {
        var bytes = bytes
        for option in [SO_SNDBUFFORCE, SO_RCVBUFFORCE] {
            try syscall("netlink buffer") {
                setsockopt(
                    mnl_socket_get_fd(socket), SOL_SOCKET, option, &bytes, socklen_t(MemoryLayout<Int32>.size))
            }
        }
    }

    private func collectAcknowledgements(
        count: Int, first: UInt32, report: (Int, SystemError) -> Void, purpose: (Int) -> String
    ) throws {
        var missing = count
        while missing > 0 {
            try receive { reply in
                let index = Int(reply.header.pointee.nlmsg_seq &- first)
                guard (0..<count).contains(index), reply.type == Int(NLMSG_ERROR) else { return true }
                missing -= 1
                if let (number, detail) = Self.outcome(of: reply), number != 0 {
                    report(index, SystemError(purpose(index), errno: number, detail: detail))
                }
                return true
            }
        }
    }

    /// Sends a dump request and visits each answer. A dump that changes made inconsistent is begun anew, later and later.
    /// - Parameter restart: called before each new beginning, to forget what was visited.
    public func dump(_ message: () -> NetlinkMessage, restart: () -> Void, visit: (NetlinkReply) -> Void) throws {
        for attempt in 0..<Self.dumps {
            restart()
            if try dumpOnce(message(), visit: visit) { return }
            usleep(1_000 << min(attempt, 7))
        }
        throw SystemError(
            "netlink dump", errno: EAGAIN, detail: "the kernel's table changed during \(Self.dumps) dumps")
    }

    /// Dumps a table that each coming and going of a link makes inconsistent. While links come and go without a pause, no
    /// dump of many is consistent; then what all found together stands. What was there all the time is in it, unless each
    /// dump missed it; what went meanwhile may be, until the next comparison.
    /// - Parameter identity: by which an item of one dump is that of another; the latest one counts.
    func linkTable<Item, Identity: Hashable>(
        by identity: (Item) -> Identity, _ message: () -> NetlinkMessage, item: (NetlinkReply) -> Item?
    ) throws -> [Item] {
        var dumps: [[Item]] = []
        while dumps.count < Self.linkDumps {
            var items: [Item] = []
            let isConsistent = try dumpOnce(message()) { reply in
                if let item = item(reply) { items.append(item) }
            }
            if isConsistent { return items }
            usleep(1_000 << dumps.count)
            dumps.append(items)
        }
        var seen: Set<Identity> = []
        return dumps.reversed().joined().filter { seen.insert(identity($0)).inserted }
    }

    /// Sends a request that has one answer, and visits that.
    func get(_ message: consuming NetlinkMessage, visit: (NetlinkReply) -> Void) throws {
        _ = try exchange(message, flags: 0, visit: visit)
    }

    /// - Returns: whether the dump was consistent.
    private func dumpOnce(_ message: consuming NetlinkMessage, visit: (NetlinkReply) -> Void) throws -> Bool {
        try exchange(message, flags: NLM_F_DUMP, visit: visit)
    }

    /// Sends a request and visits its answers: one, or with `NLM_F_DUMP` all until the last.
    /// - Returns: whether they are consistent.
    private func exchange(
        _ message: consuming NetlinkMessage, flags: Int32, visit: (NetlinkReply) -> Void
    ) throws -> Bool {
        sequence &+= 1
        let own = sequence
        message.setSequence(own, flags: flags)
        let purpose = message.purpose
        try syscall("netlink send") { mnl_socket_sendto(socket, message.bytes.baseAddress, message.bytes.count) }
        var done = false
        var consistent = true
        while !done {
            try receive { reply in
                guard reply.header.pointee.nlmsg_seq == own else { return true }
                if reply.header.pointee.nlmsg_flags & UInt16(NLM_F_DUMP_INTR) != 0 { consistent = false }
                switch reply.type {
                case Int(NLMSG_DONE):
                    done = true
                    // A dump that failed on its way says so in its last message.
                    if let error = reply.fixed(Int32.self), error < 0 { throw SystemError(purpose, errno: -error) }
                case Int(NLMSG_ERROR):
                    done = true
                    if let (number, detail) = Self.outcome(of: reply), number != 0 {
                        throw SystemError(purpose, errno: number, detail: detail)
                    }
                default:
                    visit(reply)
                    if flags & NLM_F_DUMP == 0 { done = true }
                }
                return !done
            }
        }
        return consistent
    }

    /// Reads one datagram and visits its messages until `visit` returns false.
    private func receive(_ visit: (NetlinkReply) throws -> Bool) throws {
        let count = try syscall("netlink receive") {
            mnl_socket_recvfrom(socket, receiveBuffer.baseAddress, receiveBuffer.count)
        }
        try Self.visit(UnsafeRawBufferPointer(rebasing: receiveBuffer[..<count]), visit)
    }

    /// Visits the messages of one datagram.
    static func visit(_ datagram: UnsafeRawBufferPointer, _ visit: (NetlinkReply) throws -> Bool) throws {
        var left = Int32(datagram.count)
        var header = datagram.baseAddress.map { $0.assumingMemoryBound(to: nlmsghdr.self) }
        while let message = header, mnl_nlmsg_ok(message, left) {
            guard try visit(NetlinkReply(header: message)) else { return }
            header = UnsafePointer(mnl_nlmsg_next(message, &left))
        }
    }

    /// The error number of an acknowledgement, positive, with the extended ack's text.
    private static func outcome(of reply: NetlinkReply) -> (Int32, String?)? {
        guard let error = reply.fixed(nlmsgerr.self) else { return nil }
        var detail: String?
        let flags = Int32(reply.header.pointee.nlmsg_flags)
        if flags & NLM_F_ACK_TLVS != 0 {
            // The original request stands between, unless NETLINK_CAP_ACK left it out.
            let echoed = flags & NLM_F_CAPPED != 0 ? 0 : Int(error.msg.nlmsg_len) - MemoryLayout<nlmsghdr>.size
            let offset = MemoryLayout<nlmsgerr>.size + ((max(echoed, 0) + 3) & ~3)
            if let payload = mnl_nlmsg_get_payload(reply.header), reply.payloadLength > offset {
                let attributes = NetlinkAttributes(
                    UnsafeRawBufferPointer(start: payload + offset, count: reply.payloadLength - offset))
                detail = attributes[NLMSGERR_ATTR_MSG.rawValue]?.text
            }
        }
        return (-error.error, detail)
    }
}

/// Requests that are sent together.
public struct NetlinkBatch: ~Copyable {
    private var storage: [UInt8] = []
    private var spans: [(range: Range<Int>, purpose: String)] = []

    public init() {}

    public var count: Int { spans.count }

    public mutating func append(_ message: consuming NetlinkMessage) {
        let start = storage.count
        storage.append(contentsOf: message.bytes)
        storage.append(contentsOf: repeatElement(0, count: -storage.count & 3))
        spans.append((start..<storage.count, message.purpose))
    }

    func purpose(_ index: Int) -> String { spans[index].purpose }

    /// Writes the requests of `range` with running sequence numbers, each asking for an acknowledgement.
    func serialise(_ range: Range<Int>, firstSequence: UInt32, into bytes: inout [UInt8]) {
        bytes.append(
            contentsOf: storage[spans[range.lowerBound].range.lowerBound..<spans[range.upperBound - 1].range.upperBound]
        )
        bytes.withUnsafeMutableBytes { buffer in
            let base = spans[range.lowerBound].range.lowerBound
            for index in range {
                guard let start = buffer.baseAddress else { return }
                let header = (start + spans[index].range.lowerBound - base).assumingMemoryBound(to: nlmsghdr.self)
                header.pointee.nlmsg_seq = firstSequence &+ UInt32(index - range.lowerBound)
                header.pointee.nlmsg_flags |= UInt16(NLM_F_ACK)
            }
        }
    }
}

/// Netlink sockets of one network namespace, opened as they are needed and kept. A monitor can tell by their ports
/// which events are of our own making.
public final class NetlinkPool: Sendable {
    private struct Contents: ~Copyable {
        var idle: [Box] = []
        var ports: Set<UInt32> = []
    }

    /// A socket is handed from thread to thread, never shared: the pool's lock is the handing over.
    private struct Box: @unchecked Sendable { let socket: NetlinkSocket }

    private let contents = Mutex(Contents())

    public init() {}

    /// Lends a socket for the time of `body`. After an error it is closed: an answer may still be under way.
    public func with<Result>(_ body: (NetlinkSocket) throws -> Result) throws -> Result {
        let box: Box
        if let idle = contents.withLock({ $0.idle.popLast() }) {
            box = idle
        } else {
            let opened = Box(socket: try NetlinkSocket())
            contents.withLock { _ = $0.ports.insert(opened.socket.portID) }
            box = opened
        }
        let result = try body(box.socket)
        contents.withLock { $0.idle.append(box) }
        return result
    }

    /// Counts the socket of somebody else in this process, such as a library's, among the pool's.
    public func adopt(port: UInt32) { contents.withLock { _ = $0.ports.insert(port) } }

    /// All ports so far.
    var known: Set<UInt32> { contents.withLock { $0.ports } }

    public func owns(port: UInt32) -> Bool { contents.withLock { $0.ports.contains(port) } }
}
