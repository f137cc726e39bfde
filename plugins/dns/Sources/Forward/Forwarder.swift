import Glibc
import KnetCore
import NIOCore

/// Asks other servers, each question once however many want its answer. It runs on one event loop.
actor Forwarder {
    struct Settings: Sendable {
        var policy = Policy.sequential
        /// By the domain whose names they are asked for.
        var stubs: [DomainName: [UpstreamAddress]] = [:]
        var lifetimes = UpstreamReply.Lifetimes()
    }

    /// Which upstream is asked first. One that does not answer comes last, whatever the policy.
    enum Policy: String, Sendable, CaseIterable { case sequential, roundRobin, random }

    nonisolated let loop: any EventLoop
    nonisolated var unownedExecutor: UnownedSerialExecutor { loop.executor.asUnownedSerialExecutor() }

    private let settings: Settings
    private let cache: AnswerCache
    private var servers: [UpstreamAddress]
    private var health: [UpstreamAddress: UpstreamHealth] = [:]
    private var streams: [UpstreamAddress: StreamExchange] = [:]
    private var running: [Question: Task<AnswerCache.Found, Never>] = [:]
    private var turn = 0
    /// Names that nobody else knows, by which an upstream was asked: should they be asked for here, it leads back.
    private var probes: [DomainName: UpstreamAddress] = [:]
    /// Upstreams that lead back here.
    private var loops: Set<UpstreamAddress> = []
    /// Addresses of this server; `nil` before they were told.
    private var own: Set<IPAddress>?

    /// A client waits for five seconds (resolv.conf(5)).
    private static let deadline = Duration.milliseconds(4_300)
    /// When a client gets what is out of date, while others are still asked (RFC 8767 §5).
    private static let patience = Duration.milliseconds(1_800)
    /// Seconds for which a failure is told (RFC 9520 §3.2; CoreDNS has as many).
    private static let failureLifetime: UInt32 = 5

    init(_ settings: Settings, servers: [UpstreamAddress], cache: AnswerCache, on loop: any EventLoop) {
        self.settings = settings
        self.servers = servers
        self.cache = cache
        self.loop = loop
    }

    // MARK: Upstreams

    /// Takes other servers for all names without ones of their own, and tries whether they lead back here.
    func use(_ servers: [UpstreamAddress], own: Set<IPAddress>) {
        guard servers != self.servers || own != self.own else { return }
        self.servers = servers
        self.own = own
        loops = []
        probes = [:]
        for upstream in all where !isOwn(upstream) {
            // Below what never exists (RFC 6761 §6.4).
            let token = String(UInt64.random(in: 0 ... .max), radix: 36)
            guard let name = DomainName("\(token).knetd.invalid") else { continue }
            probes[name] = upstream
            let probe = Task { _ = try? await self.exchange(upstream, Question(name, RecordType.txt)) }
            Task {
                try? await Task.sleep(for: Self.deadline)
                probe.cancel()
            }
        }
    }

    private var all: Set<UpstreamAddress> { settings.stubs.values.reduce(into: Set(servers)) { $0.formUnion($1) } }

    private func isOwn(_ upstream: UpstreamAddress) -> Bool {
        upstream.endpoint.port == 53 && own?.contains(upstream.endpoint.address) == true
    }

    /// What is wrong with upstreams, for people.
    var faults: [String] {
        let own = all.filter(isOwn).map { "upstream \($0) is this server itself; it is not asked" }
        let loops = loops.map { "upstream \($0) asks this server what it is asked; it is not asked any more" }
        let none = servers.isEmpty ? ["no upstream is known: names outside of the cluster are not answered"] : []
        return (own + loops).sorted() + none
    }

    /// How each upstream fares, by its address.
    var states: [(upstream: UpstreamAddress, health: UpstreamHealth)] {
        all.sorted { "\($0)" < "\($1)" }.map { ($0, health[$0] ?? UpstreamHealth()) }
    }

    /// The servers for a name, in the order in which they are asked.
    private func upstreams(for question: Question) -> [UpstreamAddress] {
        let name = question.name
        let stub = settings.stubs.filter { name.isWithin($0.key) }.max { $0.key.wire.count < $1.key.wire.count }
        var usable = (stub?.value ?? servers).filter { !loops.contains($0) && !isOwn($0) }
        switch settings.policy {
        case .sequential: break
        case .random: usable.shuffle()
        case .roundRobin:
            turn &+= 1
            let start = usable.isEmpty ? 0 : turn % usable.count
            usable = Array(usable[start...] + usable[..<start])
        }
        let now = ContinuousClock.now
        return usable.filter { health[$0]?.isDown(now) != true } + usable.filter { health[$0]?.isDown(now) == true }
    }

    // MARK: Questions

    /// The answer to a question, from an upstream or, where none gives one, what there is.
    func fetch(_ question: Question) async -> AnswerCache.Found {
        let task = running[question] ?? start(question)
        // What is out of date is told if it takes too long to get better.
        guard cache.isStale(question, now: Clock.now) else { return await task.value }
        // Not a task group: that would wait for the question too.
        let (first, line) = AsyncStream<AnswerCache.Found>.makeStream(bufferingPolicy: .bufferingOldest(1))
        let answered = Task { line.yield(await task.value) }
        let late = Task { [cache] in
            guard (try? await Task.sleep(for: Self.patience)) != nil else { return }
            if let stale = cache.findStale(question, now: Clock.now) { line.yield(stale) }
        }
        defer {
            answered.cancel()
            late.cancel()
        }
        for await found in first { return found }
        return await task.value
    }

    /// Asks again for what is held, before it is out of date.
    func prefetch(_ question: Question) {
        if running[question] == nil { _ = start(question) }
    }

    private func start(_ question: Question) -> Task<AnswerCache.Found, Never> {
        let task = Task { await run(question) }
        running[question] = task
        return task
    }

    private func run(_ question: Question) async -> AnswerCache.Found {
        defer { running[question] = nil }
        if let upstream = probes[question.name] {
            loops.insert(upstream)
            return AnswerCache.Found(answer: .failure(.nameError, lifetime: 0), age: 0)
        }
        if let answer = await ask(question) {
            cache.insert(answer, for: question, now: Clock.now)
            return AnswerCache.Found(answer: answer, age: 0)
        }
        if let stale = cache.findStale(question, now: Clock.now) { return stale }
        let failure = HeldAnswer.failure(.serverFailure, lifetime: Self.failureLifetime)
        cache.insert(failure, for: question, now: Clock.now)
        return AnswerCache.Found(answer: failure, age: 0)
    }

    private enum Event: Sendable {
        case answer(HeldAnswer)
        case refused
        /// The `number`-th attempt has had the time that it may take before another is asked.
        case late(number: Int)
        case deadline
    }

    /// Asks one upstream after the other until one answers; an answer that is late still counts.
    private func ask(_ question: Question) async -> HeldAnswer? {
        let order = upstreams(for: question)
        guard !order.isEmpty else { return nil }
        return await withTaskGroup(of: Event?.self) { group in
            var (attempts, refusals) = (0, 0)
            func attempt() {
                let upstream = order[attempts % order.count]
                attempts += 1
                let (number, patience) = (attempts, health[upstream]?.patience ?? UpstreamHealth().patience)
                group.addTask { await self.attempt(upstream, question) }
                group.addTask {
                    try? await Task.sleep(for: patience)
                    return .late(number: number)
                }
            }
            defer { group.cancelAll() }
            group.addTask {
                try? await Task.sleep(for: Self.deadline)
                return .deadline
            }
            attempt()
            for await case let event? in group {
                switch event {
                case .answer(let answer): return answer
                case .refused:
                    refusals += 1
                    if attempts < order.count { attempt() } else if refusals == attempts { return nil }
                // Each upstream twice, should the first datagram be lost.
                case .late(let number) where number == attempts && attempts < max(3, order.count * 2): attempt()
                case .late: break
                case .deadline: return nil
                }
            }
            return nil
        }
    }

    private func attempt(_ upstream: UpstreamAddress, _ question: Question) async -> Event? {
        let start = ContinuousClock.now
        do {
            let reply = try await exchange(upstream, question)
            health[upstream, default: UpstreamHealth()].answered(in: ContinuousClock.now - start, reply)
            if case .answer(let answer) = reply { return .answer(answer) }
            return .refused
        } catch {
            // Given up because another answered: that says nothing of this one, but that it was slow.
            let late = ContinuousClock.now - start
            if !Task.isCancelled || late >= health[upstream, default: UpstreamHealth()].patience {
                health[upstream, default: UpstreamHealth()].failed(ContinuousClock.now)
            }
            return Task.isCancelled ? nil : .refused
        }
    }

    private func exchange(_ upstream: UpstreamAddress, _ question: Question) async throws -> UpstreamReply {
        let withEDNS = health[upstream]?.lacksEDNS != true
        var reply = try await exchange(upstream, question, withEDNS: withEDNS)
        // Servers older than EDNS say that they do not understand (RFC 6891 §6.2.2).
        if withEDNS, case .refused(let code) = reply, code == .formatError || code == .notImplemented {
            reply = try await exchange(upstream, question, withEDNS: false)
            if case .answer = reply { health[upstream, default: UpstreamHealth()].lacksEDNS = true }
        }
        return reply
    }

    private func exchange(
        _ upstream: UpstreamAddress, _ question: Question, withEDNS: Bool
    ) async throws -> UpstreamReply {
        if upstream.tlsName == nil {
            let reply = try await DatagramExchange.ask(
                upstream, question, withEDNS: withEDNS, lifetimes: settings.lifetimes, on: loop)
            guard case .truncated = reply else { return reply }
        }
        let stream =
            streams[upstream] ?? StreamExchange(upstream, lifetimes: settings.lifetimes, on: loop)
        streams[upstream] = stream
        return try await stream.ask(question, withEDNS: withEDNS)
    }
}

/// How an upstream fares, as its answers to real questions show.
struct UpstreamHealth: Sendable {
    /// Smoothed time to an answer.
    private(set) var roundTrip: Duration?
    private(set) var failures = 0
    private var downUntil: ContinuousClock.Instant?
    var lacksEDNS = false
    /// Answers by response code, and how long they took in all.
    private(set) var answers: [ResponseCode: Int] = [:]
    private(set) var total = Duration.zero
    /// How often it was found not to answer.
    private(set) var broken = 0

    /// How long one waits before another is asked as well.
    var patience: Duration {
        guard let roundTrip else { return .milliseconds(800) }
        return min(max(roundTrip * 4, .milliseconds(200)), .milliseconds(1_500))
    }

    /// Whether it should come last. After a while it is tried again with a real question.
    func isDown(_ now: ContinuousClock.Instant) -> Bool { downUntil.map { now < $0 } ?? false }

    mutating func answered(in time: Duration, _ reply: UpstreamReply) {
        (failures, downUntil) = (0, nil)
        roundTrip = roundTrip.map { ($0 * 7 + time) / 8 } ?? time
        total += time
        answers[reply.code, default: 0] += 1
    }

    mutating func failed(_ now: ContinuousClock.Instant) {
        failures += 1
        guard failures >= 2 else { return }
        broken += 1
        downUntil = now + min(.milliseconds(500) * (1 << min(failures, 6)), .seconds(10))
    }
}

extension UpstreamReply {
    fileprivate var code: ResponseCode {
        switch self {
        case .answer(let answer): ResponseCode(rawValue: answer.code) ?? .serverFailure
        case .refused(let code): code
        case .foreign, .truncated: .noError
        }
    }
}

/// Time for lifetimes.
enum Clock {
    /// Milliseconds of the monotonic clock.
    static var now: Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC_COARSE, &time)
        return Int64(time.tv_sec) * 1_000 + Int64(time.tv_nsec) / 1_000_000
    }
}

extension Clock {
    /// Seconds since 1970.
    static var wall: UInt32 { UInt32(truncatingIfNeeded: time(nil)) }
}
