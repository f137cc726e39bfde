import KnetCore
import KnetLinux
import Logging
import NIOCore
import NIOPosix
import Synchronization

/// The router with its sockets and timers, on one event loop.
final class Speaker: Sendable {
    /// A peer that is to be there.
    struct Wanted: Hashable, Sendable {
        var settings: PeerSettings
        var transport: Transport
    }

    /// Peers that may connect from a range.
    struct WantedRange: Hashable, Sendable {
        let range: CIDR
        let wanted: Wanted
    }

    private enum Input {
        case add(PeerKey, Wanted)
        case remove(PeerKey, StopReason)
        case opened(ConnectionID, PeerKey, IPAddress?)
        case session(SessionEvent, PeerKey)
        case local([CIDR: LocalRoute])
        case reflects(Bool)
        case allIsTold
    }

    private struct Contents {
        var router: Router
        var inputs: [Input] = []
        var isAtWork = false
        var wanted: [PeerKey: Wanted] = [:]
        var ranges: [WantedRange] = []
        var channels: [PeerKey: [ConnectionID: any Channel]] = [:]
        var timers: [PeerKey: [SessionTimer: Scheduled<Void>]] = [:]
        var listeners: [any Channel] = []
        var accepted = 0
        /// How often each peer was added: connections of an earlier one are not this one's.
        var generations: [PeerKey: Int] = [:]
        var isStopped = false
        /// When it was first said which peers there are to be.
        var arranged: ContinuousClock.Instant?
        var fault: String?
        /// Peers that told too much, until they are let in again.
        var barred: Set<PeerKey> = []
    }

    private let loop: any EventLoop
    private let contents: Mutex<Contents>
    private let routes: LearntRoutes
    private let logger: Logger
    private let epoch = ContinuousClock.now

    /// A peer that told more routes than it may is let in again after this.
    private static let bar = TimeAmount.minutes(5)

    init(_ router: Router, routes: LearntRoutes, loop: any EventLoop, logger: Logger) {
        contents = Mutex(Contents(router: router))
        self.routes = routes
        self.loop = loop
        self.logger = logger
    }

    /// Since when peers that are to be there are.
    var arranged: ContinuousClock.Instant? { contents.withLock { $0.arranged } }
    var isDeferring: Bool { contents.withLock { $0.router.isDeferring } }
    var hasRanges: Bool { contents.withLock { !$0.ranges.isEmpty } }

    var router: Router { contents.withLock { $0.router } }
    var fault: String? { contents.withLock { $0.fault } }
    var now: Duration { ContinuousClock.now - epoch }

    /// Has these peers and no others.
    func have(_ peers: [PeerKey: Wanted], _ ranges: [WantedRange]) {
        loop.execute { [self] in
            let (inputs, isSigned) = contents.withLock { contents -> ([Input], Bool) in
                guard !contents.isStopped else { return ([], false) }
                var inputs: [Input] = []
                // Those that came by a range which is no more.
                for key in contents.router.peers.keys where contents.wanted[key] == nil && peers[key] == nil {
                    let range = contents.ranges.first { $0.range.contains(key.address) }
                    if range.map({ !ranges.contains($0) }) ?? true {
                        inputs.append(.remove(key, .cease(.peerDeconfigured)))
                    }
                }
                for (key, wanted) in contents.wanted where peers[key] != wanted {
                    inputs.append(
                        .remove(key, .cease(peers[key] == nil ? .peerDeconfigured : .otherConfigurationChange)))
                }
                for (key, wanted) in peers where contents.wanted[key] != wanted { inputs.append(.add(key, wanted)) }
                let isSigned = contents.wanted != peers || contents.ranges != ranges
                contents.wanted = peers
                contents.ranges = ranges
                return (inputs, isSigned)
            }
            if isSigned { sign() }
            inputs.forEach(take)
            contents.withLock { $0.arranged = $0.arranged ?? .now }
        }
    }

    func tell(_ local: [CIDR: LocalRoute]) { loop.execute { [self] in take(.local(local)) } }

    /// Whether routes of internal peers are passed on.
    func reflect(_ isReflector: Bool) { loop.execute { [self] in take(.reflects(isReflector)) } }

    /// Peers may take what they were told for all.
    func endDeferral() { loop.execute { [self] in take(.allIsTold) } }

    func event(_ event: SessionEvent, _ key: PeerKey) { loop.execute { [self] in take(.session(event, key)) } }

    /// Ends all sessions so that peers keep the routes, if they can.
    func stop() async {
        await withCheckedContinuation { continuation in
            loop.execute { [self] in
                contents.withLock { $0.isStopped = true }
                for key in router.peers.keys { take(.remove(key, .restart)) }
                let listeners = contents.withLock { contents in
                    defer { contents.listeners = [] }
                    return contents.listeners
                }
                for listener in listeners { listener.close(promise: nil) }
                continuation.resume()
            }
        }
    }

    // MARK: One thing after the other

    /// On the loop. What comes while another input is worked on waits for its end.
    private func take(_ input: Input) {
        let mustWork = contents.withLock { contents in
            contents.inputs.append(input)
            defer { contents.isAtWork = true }
            return !contents.isAtWork
        }
        guard mustWork else { return }
        while true {
            let actions = contents.withLock { contents -> [RouterAction]? in
                guard !contents.inputs.isEmpty else {
                    contents.isAtWork = false
                    return nil
                }
                return work(contents.inputs.removeFirst(), &contents)
            }
            guard let actions else { return }
            perform(actions)
        }
    }

    private func work(_ input: Input, _ contents: inout Contents) -> [RouterAction] {
        let random = Double.random(in: 0..<1)
        switch input {
        case .add(let key, let wanted):
            // One that connected before it was named.
            let gone =
                contents.router.peers[key] == nil ? [] : remove(key, .cease(.otherConfigurationChange), &contents)
            contents.generations[key, default: 0] += 1
            return gone + contents.router.add(key, wanted.settings, now: now, random: random)
        case .remove(let key, let reason): return remove(key, reason, &contents)
        case .opened(let id, let key, let own):
            return contents.router.opened(id, of: key, from: own, now: now, random: random)
        case .session(let event, let key):
            return contents.router.handle(event, from: key, now: now, random: random)
        case .local(let routes): return contents.router.setLocal(routes)
        case .reflects(let isReflector): return contents.router.setReflector(isReflector)
        case .allIsTold: return contents.router.endDeferral()
        }
    }

    private func remove(_ key: PeerKey, _ reason: StopReason, _ contents: inout Contents) -> [RouterAction] {
        for timer in (contents.timers.removeValue(forKey: key) ?? [:]).values { timer.cancel() }
        contents.barred.remove(key)
        return contents.router.remove(key, reason, now: now, random: Double.random(in: 0..<1))
    }

    private func perform(_ actions: [RouterAction]) {
        var written: [any Channel] = []
        for action in actions {
            switch action {
            case .connect(let key, let id): connect(key, id)
            case .close(let key, let id):
                let channel = contents.withLock { $0.channels[key]?.removeValue(forKey: id) }
                channel?.flush()
                channel?.close(promise: nil)
            case .send(let key, let id, let bytes):
                guard let channel = contents.withLock({ $0.channels[key]?[id] }) else { continue }
                channel.write(ByteBuffer(bytes: bytes), promise: nil)
                if !written.contains(where: { $0 === channel }) { written.append(channel) }
            case .setTimer(let key, let timer, let after):
                let amount = TimeAmount.nanoseconds(Int64(max(.zero, after) / .nanoseconds(1)))
                let scheduled = loop.scheduleTask(in: amount) { [weak self] in
                    self?.contents.withLock { $0.timers[key]?[timer] = nil }
                    self?.take(.session(.timer(timer), key))
                }
                contents.withLock { $0.timers[key, default: [:]].updateValue(scheduled, forKey: timer) }?.cancel()
            case .cancelTimer(let key, let timer):
                contents.withLock { $0.timers[key]?.removeValue(forKey: timer) }?.cancel()
            case .routes(let changes):
                // The kernel keeps them for the process that comes after this one.
                if !contents.withLock(\.isStopped) { routes.change(changes) }
            case .up(let key): log(key, "BGP session is up", nil)
            case .down(let key, let reason): log(key, "BGP session is down", "\(reason)")
            case .tooManyRoutes(let key): bar(key)
            case .finished(let key): take(.remove(key, .cease(.peerDeconfigured)))
            }
        }
        for channel in written { channel.flush() }
    }

    private func log(_ key: PeerKey, _ text: String, _ reason: String?) {
        var metadata: Logger.Metadata = ["op": "bgp", "peer": "\(key)"]
        if let reason { metadata["reason"] = "\(reason)" }
        logger.notice("\(text)", metadata: metadata)
    }

    private func bar(_ key: PeerKey) {
        take(.session(.stop(.cease(.maximumPrefixes)), key))
        guard contents.withLock({ $0.barred.insert(key).inserted }) else { return }
        let limit = router.peers[key]?.settings.routeLimit ?? 0
        log(key, "peer is cut off for five minutes", "it told more than \(limit) usable routes")
        loop.scheduleTask(in: Self.bar) { [weak self] in
            guard self?.contents.withLock({ $0.barred.remove(key) }) != nil else { return }
            self?.take(.session(.start(isRestarting: false), key))
        }
    }

    /// Peers that are cut off for having told too much.
    var barred: Set<PeerKey> { contents.withLock { $0.barred } }

    // MARK: Connections

    private func connect(_ key: PeerKey, _ id: ConnectionID) {
        let (wanted, generation) = contents.withLock { ($0.wanted[key]?.transport, $0.generations[key]) }
        guard let transport = wanted else { return }
        do {
            let target = try SocketAddress(ipAddress: key.address.description, port: transport.port)
            var bootstrap = ClientBootstrap(group: loop).connectTimeout(.seconds(10))
                .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                .channelInitializer { [self] channel in
                    PeerSocket.prepare(channel, for: key.address, transport).flatMapThrowing {
                        try channel.pipeline.syncOperations.addHandler(self.handler(key, id, generation))
                    }
                }
            if let source = transport.source, source.family == key.address.family {
                bootstrap = bootstrap.bind(to: try SocketAddress(ipAddress: source.description, port: 0))
            }
            bootstrap.connect(to: target).whenComplete { [self] result in
                switch result {
                case .success(let channel): open(channel, key, id, generation)
                case .failure(let error):
                    guard contents.withLock({ $0.generations[key] == generation }) else { return }
                    take(.session(.failed(id, Self.words(error)), key))
                }
            }
        } catch { take(.session(.failed(id, "\(error)"), key)) }
    }

    private static func words(_ error: any Error) -> String {
        switch error {
        case let error as IOError: SystemError("connect", errno: error.errnoCode).description
        case is ChannelError: "no answer"
        default: "\(error)"
        }
    }

    private func handler(_ key: PeerKey, _ id: ConnectionID, _ generation: Int?) -> PeerHandler {
        PeerHandler(id) { [weak self] event in
            guard let self, contents.withLock({ $0.generations[key] == generation }) else { return }
            if case .closed = event { contents.withLock { _ = $0.channels[key]?.removeValue(forKey: id) } }
            take(.session(event, key))
        }
    }

    private func open(_ channel: any Channel, _ key: PeerKey, _ id: ConnectionID, _ generation: Int?) {
        let isWanted = contents.withLock { contents in
            guard contents.router.peers[key] != nil, contents.generations[key] == generation, !contents.isStopped else {
                return false
            }
            contents.channels[key, default: [:]][id] = channel
            return true
        }
        guard isWanted else { return channel.close(promise: nil) }
        take(.opened(id, key, channel.localAddress?.address))
    }

    /// Lets peers connect.
    func listen(_ port: Int) async {
        for any in ["0.0.0.0", "::"] {
            do {
                let bootstrap = ServerBootstrap(group: loop)
                    .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
                    // <linux/in6.h>: IPV6_V6ONLY
                    .serverChannelOption(
                        ChannelOptions.Types.SocketOption(
                            level: .init(rawValue: any == "::" ? 41 : 1), name: .init(rawValue: any == "::" ? 26 : 2)),
                        value: 1
                    )
                    .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
                    .childChannelInitializer { [self] in accept($0) }
                let channel = try await bootstrap.bind(host: any, port: port).get()
                contents.withLock { $0.listeners.append(channel) }
            } catch {
                contents.withLock { $0.fault = "peers cannot connect: port \(port) of \(any): \(Self.words(error))" }
            }
        }
        loop.execute { [self] in sign() }
    }

    private func accept(_ channel: any Channel) -> EventLoopFuture<Void> {
        guard let address = channel.remoteAddress?.address, let (key, id, transport) = place(address) else {
            return channel.close()
        }
        let generation = contents.withLock { $0.generations[key] }
        return PeerSocket.prepare(channel, for: address, Transport(port: 0, hops: transport.hops)).flatMapThrowing {
            [self] in
            try channel.pipeline.syncOperations.addHandler(self.handler(key, id, generation))
            // Once it is active.
            channel.eventLoop.execute { self.open(channel, key, id, generation) }
        }
    }

    /// Whose connection it is; `nil` where nobody expects it.
    private func place(_ address: IPAddress) -> (PeerKey, ConnectionID, Transport)? {
        let key = PeerKey(address: address)
        let (found, isNew) = contents.withLock { contents -> (Wanted?, Bool) in
            guard !contents.isStopped, !contents.barred.contains(key) else { return (nil, false) }
            contents.accepted += 1
            if let wanted = contents.wanted[key] { return (wanted, false) }
            let range = contents.ranges.filter { $0.range.contains(address) }.max {
                $0.range.prefixLength < $1.range.prefixLength
            }
            return (range?.wanted, contents.router.peers[key] == nil)
        }
        guard let found else { return nil }
        if isNew { take(.add(key, found)) }
        let number = contents.withLock { $0.accepted }
        return (key, ConnectionID(side: .incoming, number: number), found.transport)
    }

    /// Gives the listeners the passwords.
    private func sign() {
        let (listeners, passwords) = contents.withLock { contents in
            var passwords: [CIDR: String] = [:]
            for (key, wanted) in contents.wanted {
                passwords[CIDR(host: key.address)] = wanted.transport.password ?? ""
            }
            for range in contents.ranges { passwords[range.range] = range.wanted.transport.password ?? "" }
            return (contents.listeners, passwords)
        }
        for listener in listeners {
            guard let socket = listener as? any SocketOptionProvider, let own = listener.localAddress?.address else {
                continue
            }
            for (peers, password) in passwords where peers.family == own.family {
                // One that was never given cannot be taken back.
                PeerSocket.sign(socket, peers, password).whenFailure { [self] error in
                    guard !password.isEmpty else { return }
                    contents.withLock { $0.fault = "the password of \(peers) cannot be set: \(Self.words(error))" }
                }
            }
        }
    }
}
