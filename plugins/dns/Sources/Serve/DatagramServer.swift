import CMnl
import Glibc
import KnetCore
import KnetLinux
import Synchronization

/// One thread that answers datagrams: as many as wait are taken by one call, and their answers given by another. What cannot be
/// answered at once is handed on.
final class DatagramServer: Sendable {
    /// What is to be done by the thread before it goes on.
    private enum Command: Sendable {
        case add(SharedDescriptor)
        case remove(Int32)
        case stop(CheckedContinuation<Void, Never>)
    }

    private let recursor: Recursor
    private let forwarder: Forwarder
    private let published: Published
    private let cache: AnswerCache
    private let walks: SearchWalks
    private let names: NameExchange
    private let settings: ServerSettings
    private let counters = Mutex(QueryCounters())
    private let commands = Mutex<[Command]>([])
    private let waker: SharedDescriptor

    /// Datagrams of one call.
    private static let batch = 64
    /// Of a new socket so many queries are taken one by one, at most. They may have come to a process that was killed: if another
    /// kill takes this one too, one query is lost and not all of a call. More do not fit into the socket's buffer.
    private static let oneByOne = 16_384
    /// Calls for one socket before others have their turn.
    private static let calls = 16
    /// Bytes of a query that are taken; longer ones are malformed.
    private static let longestQuery = 2_048

    init(
        recursor: Recursor, forwarder: Forwarder, published: Published, cache: AnswerCache, walks: SearchWalks,
        names: NameExchange, settings: ServerSettings,
        name: String
    ) throws {
        self.recursor = recursor
        self.forwarder = forwarder
        self.published = published
        self.cache = cache
        self.walks = walks
        self.names = names
        self.settings = settings
        waker = SharedDescriptor(
            Descriptor(owning: try syscall("eventfd") { eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK)) }))
        try DedicatedThread.start(name: name) { Worker(self).run() }
    }

    var counts: QueryCounters { counters.withLock { $0 } }

    /// Answers what comes to the socket, until it is removed.
    func add(_ socket: SharedDescriptor) { tell(.add(socket)) }
    func remove(_ socket: SharedDescriptor) { tell(.remove(socket.number)) }
    /// Ends the thread, once, when what it took is answered.
    func stop() async { await withCheckedContinuation { tell(.stop($0)) } }

    private func tell(_ command: Command) {
        commands.withLock { $0.append(command) }
        var one: UInt64 = 1
        _ = write(waker.number, &one, 8)
    }

    private struct Source {
        let socket: SharedDescriptor
        /// How many queries are still to be taken one by one; none once nothing waited.
        var leftOneByOne = DatagramServer.oneByOne
    }

    /// What belongs to the thread.
    private final class Worker {
        private let server: DatagramServer
        private let resolver: Resolver
        private var gate: Gatekeeper
        private var sources: [Int32: Source] = [:]
        private var material: Resolver.Material
        private var version = 0
        private var counts = QueryCounters()
        private var untilLog = 0

        private let received = UnsafeMutablePointer<knet_mmsghdr>.allocate(capacity: batch)
        private let sent = UnsafeMutablePointer<knet_mmsghdr>.allocate(capacity: batch)
        private let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: 2 * batch)
        private let names = UnsafeMutablePointer<sockaddr_storage>.allocate(capacity: batch)
        private let queries = UnsafeMutableRawBufferPointer.allocate(byteCount: batch * longestQuery, alignment: 64)
        private let answers = UnsafeMutableRawBufferPointer.allocate(
            byteCount: batch * Answer.largestPayload, alignment: 64)

        init(_ server: DatagramServer) {
            self.server = server
            resolver = Resolver(cache: server.cache, walks: server.walks, names: server.names)
            gate = Gatekeeper(allowed: server.settings.allowed, rate: server.settings.rate)
            material = Resolver.Material(contents: server.published.current, now: 0)
            for index in 0..<batch {
                vectors[index] = iovec(
                    iov_base: queries.baseAddress?.advanced(by: index * longestQuery), iov_len: longestQuery)
                vectors[batch + index] = iovec(iov_base: nil, iov_len: 0)
                received[index] = knet_mmsghdr()
                received[index].msg_hdr.msg_iov = vectors + index
                received[index].msg_hdr.msg_iovlen = 1
                received[index].msg_hdr.msg_name = UnsafeMutableRawPointer(names + index)
                sent[index] = knet_mmsghdr()
                sent[index].msg_hdr.msg_iov = vectors + batch + index
                sent[index].msg_hdr.msg_iovlen = 1
            }
        }

        deinit {
            received.deallocate()
            sent.deallocate()
            vectors.deallocate()
            names.deallocate()
            queries.deallocate()
            answers.deallocate()
        }

        func run() {
            var watched: [pollfd] = []
            while true {
                if watched.count != sources.count + 1 {
                    watched = ([server.waker.number] + sources.keys).map {
                        pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
                    }
                }
                _ = poll(&watched, nfds_t(watched.count), -1)
                for event in watched.dropFirst() where event.revents != 0 { serve(event.fd) }
                if watched[0].revents != 0 {
                    if obey() { return }
                    watched = []
                }
            }
        }

        /// - Returns: whether the thread is to end.
        private func obey() -> Bool {
            var count: UInt64 = 0
            _ = read(server.waker.number, &count, 8)
            let commands = server.commands.withLock { commands in
                defer { commands = [] }
                return commands
            }
            for command in commands {
                switch command {
                case .add(let socket): sources[socket.number] = Source(socket: socket)
                case .remove(let number): sources[number] = nil
                case .stop(let stopped):
                    stopped.resume()
                    return true
                }
            }
            return false
        }

        /// Takes what waits at the socket, until nothing does or others have waited long enough.
        private func serve(_ descriptor: Int32) {
            guard let source = sources[descriptor] else { return }
            let most = source.leftOneByOne > 0 ? 1 : batch
            var taken = 0
            defer {
                if source.leftOneByOne > 0 {
                    sources[descriptor]?.leftOneByOne = taken < calls ? 0 : source.leftOneByOne - taken
                }
            }
            for _ in 0..<calls {
                for index in 0..<most {
                    received[index].msg_hdr.msg_namelen = socklen_t(MemoryLayout<sockaddr_storage>.size)
                }
                let count = Int(knet_recvmmsg(descriptor, received, UInt32(most), Int32(MSG_DONTWAIT)))
                guard count > 0 else { return }
                answer(count, source.socket)
                taken += count
                if count < most { return }
            }
        }

        private func answer(_ count: Int, _ socket: SharedDescriptor) {
            let start = Clock.precise
            if server.published.version != version {
                version = server.published.version
                material = Resolver.Material(contents: server.published.current, now: 0)
            }
            material.now = start / 1_000_000
            var ready = 0
            for index in 0..<count where answer(index, at: ready, socket) { ready += 1 }
            var done = 0
            while done < ready {
                let sent = knet_sendmmsg(socket.number, sent + done, UInt32(ready - done), Int32(MSG_DONTWAIT))
                // One that cannot be sent is passed over: its client is gone.
                done += sent > 0 ? Int(sent) : 1
            }
            counts.observe(seconds: Double(Clock.precise - start) / 1e9, count: ready)
            server.counters.withLock { $0.take(&counts) }
        }

        /// - Returns: whether there is an answer to send at the place.
        private func answer(_ index: Int, at place: Int, _ socket: SharedDescriptor) -> Bool {
            guard let client = IPAddress(socketName: names + index) else { return false }
            let length = Int(received[index].msg_len)
            let query = UnsafeRawBufferPointer(rebasing: queries[index * longestQuery..<index * longestQuery + length])
            let room = UnsafeMutableRawBufferPointer(
                rebasing: answers[place * Answer.largestPayload..<(place + 1) * Answer.largestPayload])
            let refuses = gate.refuses(client, now: material.now)
            func resolve() -> Resolver.Outcome {
                resolver.answer(query, from: client, refuses: refuses, isDatagram: true, with: material, into: room)
            }
            var outcome = resolve()
            while case .fetch(let question) = outcome {
                if server.recursor.waiting.enter() {
                    server.fetch(Array(query), client, names[index], socket)
                    break
                }
                material.fetched.append((question, server.cache.findWithoutAsking(question, now: material.now)))
                outcome = resolve()
            }
            if !material.fetched.isEmpty { material.fetched = [] }
            guard case .send(let length) = outcome else { return false }
            sent[place].msg_hdr.msg_name = received[index].msg_hdr.msg_name
            sent[place].msg_hdr.msg_namelen = received[index].msg_hdr.msg_namelen
            vectors[batch + place].iov_base = room.baseAddress
            vectors[batch + place].iov_len = length
            counts.add(resolver.facts, client.family, isDatagram: true, bytes: length)
            if let question = resolver.facts.prefetch { server.prefetch(question) }
            log(query, client)
            return true
        }

        private func log(_ query: UnsafeRawBufferPointer, _ client: IPAddress) {
            guard server.settings.logEvery > 0 else { return }
            untilLog -= 1
            guard untilLog < 0 else { return }
            untilLog = server.settings.logEvery - 1
            server.settings.log(query, client, resolver.facts)
        }
    }

    private func prefetch(_ question: Question) {
        Task { await forwarder.prefetch(question) }
    }

    /// Has a query answered that may wait.
    private func fetch(_ query: [UInt8], _ client: IPAddress, _ address: sockaddr_storage, _ socket: SharedDescriptor) {
        let start = Clock.precise
        Task {
            guard
                let (answer, facts) = await recursor.answer(
                    query, from: client, refuses: false, isDatagram: true, waits: true)
            else { return }
            var address = address
            let length = socklen_t(
                client.family == .v4 ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size)
            withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    _ = sendto(socket.number, answer, answer.count, Int32(MSG_DONTWAIT), $0, length)
                }
            }
            var counts = QueryCounters()
            counts.add(facts, client.family, isDatagram: true, bytes: answer.count, missed: true)
            counts.observe(seconds: Double(Clock.precise - start) / 1e9, count: 1)
            counters.withLock { $0.take(&counts) }
            if settings.logEvery == 1 { query.withUnsafeBytes { settings.log($0, client, facts) } }
        }
    }
}

extension Clock {
    /// Nanoseconds of the same clock.
    static var precise: Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}
