import KnetCore
import TestSupport
import Testing

@testable import BGPPlugin

/// Routers wired together without sockets: what one sends, another gets after a while.
@Suite struct RouterTests {
    /// Speakers of one AS, or each of its own, with a clock of their own.
    private struct World {
        struct Happening {
            let at: Duration
            let number: Int
            let what: What
        }
        enum What {
            case timer(Int, PeerKey, SessionTimer)
            case opened(Int, PeerKey, ConnectionID)
            case bytes(Int, PeerKey, ConnectionID, [UInt8])
            case closed(Int, PeerKey, ConnectionID)
        }
        /// Both ends of a connection.
        struct End: Hashable {
            let router: Int
            let peer: PeerKey
            let id: ConnectionID
        }

        var routers: [Router]
        var now = Duration.zero
        var queue: [Happening] = []
        var count = 0
        var ends: [End: End] = [:]
        var frames: [End: MessageFrames] = [:]
        var installed: [[CIDR: Set<IPAddress>]]
        var timers: [Int: [String: Int]] = [:]
        var random = SeededGenerator(seed: 7)
        var isCut: (Int, Int) -> Bool = { _, _ in false }

        static func address(_ number: Int) -> IPAddress { .v4(0x0A00_0001 + UInt32(number)) }
        static func key(_ number: Int) -> PeerKey { PeerKey(address: address(number)) }
        static func number(_ key: PeerKey) -> Int { Int(key.address.number - 0x0A00_0001) }

        init(_ count: Int, reflectors: Set<Int> = [], ownAS: (Int) -> UInt32 = { _ in 64512 }) {
            routers = (0..<count).map {
                Router(localAS: ownAS($0), identifier: UInt32($0 + 1), isReflector: reflectors.contains($0))
            }
            installed = Array(repeating: [:], count: count)
        }

        static func settings(
            _ own: UInt32, _ peer: UInt32, _ number: Int, isClient: Bool = false, limit: Int = 1_000_000
        ) -> PeerSettings {
            PeerSettings(
                session: SessionSettings(localAS: own, identifier: UInt32(number + 1), peerAS: peer),
                imports: [PrefixFilter(CIDR(containing: .v4(0), prefixLength: 0))], routeLimit: limit,
                isClient: isClient, nextHops: [.v4: address(number)])
        }

        mutating func link(_ one: Int, _ other: Int, reflectors: Set<Int> = []) {
            for (own, peer) in [(one, other), (other, one)] {
                let settings = Self.settings(
                    routers[own].localAS, routers[peer].localAS, own,
                    isClient: reflectors.contains(own) && !reflectors.contains(peer))
                let actions = routers[own].add(Self.key(peer), settings, now: now, random: 0.5)
                perform(actions, own)
            }
        }

        mutating func tell(_ router: Int, _ prefixes: [CIDR]) {
            let actions = routers[router].setLocal(
                Dictionary(uniqueKeysWithValues: prefixes.map { ($0, LocalRoute()) }))
            perform(actions, router)
        }

        private mutating func later(_ wait: Duration, _ what: What) {
            count += 1
            queue.append(Happening(at: now + wait, number: count, what: what))
        }

        private mutating func perform(_ actions: [RouterAction], _ own: Int) {
            for action in actions {
                switch action {
                case .connect(let key, let id):
                    let other = Self.number(key)
                    let there = End(
                        router: other, peer: Self.key(own), id: ConnectionID(side: .incoming, number: count))
                    let here = End(router: own, peer: key, id: id)
                    guard !isCut(own, other), routers[other].peers[Self.key(own)] != nil else {
                        later(.seconds(1), .closed(own, key, id))
                        continue
                    }
                    ends[here] = there
                    ends[there] = here
                    later(.milliseconds(1), .opened(own, key, id))
                    later(.milliseconds(1), .opened(other, there.peer, there.id))
                case .send(let key, let id, let bytes):
                    guard let there = ends[End(router: own, peer: key, id: id)], !isCut(own, there.router) else {
                        continue
                    }
                    later(.milliseconds(2), .bytes(there.router, there.peer, there.id, bytes))
                case .close(let key, let id):
                    guard let there = ends.removeValue(forKey: End(router: own, peer: key, id: id)) else { continue }
                    later(.milliseconds(3), .closed(there.router, there.peer, there.id))
                case .setTimer(let key, let timer, let after):
                    let name = "\(key) \(timer)"
                    later(max(after, .zero), .timer(own, key, timer))
                    timers[own, default: [:]][name] = count
                case .cancelTimer(let key, let timer): timers[own]?["\(key) \(timer)"] = nil
                case .routes(let changes):
                    for (prefix, gateways) in changes { installed[own][prefix] = gateways.isEmpty ? nil : gateways }
                case .up, .down, .tooManyRoutes, .finished: break
                }
            }
        }

        /// - Returns: whether `condition` came true by then.
        mutating func run(until end: Duration, _ condition: (World) -> Bool = { _ in false }) -> Bool {
            while !condition(self) {
                queue.sort { ($0.at, $0.number) < ($1.at, $1.number) }
                guard let next = queue.first, next.at <= end else {
                    now = end
                    return condition(self)
                }
                // All of one moment, so that sorting is done once for many.
                let due = queue.prefix { $0.at == next.at }
                queue.removeFirst(due.count)
                now = next.at
                for happening in due { handle(happening) }
            }
            return true
        }

        private mutating func handle(_ happening: Happening) {
            let chance = Double.random(in: 0..<1, using: &random)
            switch happening.what {
            case .timer(let own, let key, let timer):
                guard timers[own]?["\(key) \(timer)"] == happening.number else { return }
                timers[own]?["\(key) \(timer)"] = nil
                perform(routers[own].handle(.timer(timer), from: key, now: now, random: chance), own)
            case .opened(let own, let key, let id):
                perform(routers[own].opened(id, of: key, from: Self.address(own), now: now, random: chance), own)
            case .bytes(let own, let key, let id, let bytes):
                let end = End(router: own, peer: key, id: id)
                guard ends[end] != nil else { return }
                var frames = frames[end] ?? MessageFrames()
                frames.append(bytes)
                while let frame = try? frames.next() {
                    perform(routers[own].handle(.received(frame, id), from: key, now: now, random: chance), own)
                }
                self.frames[end] = frames
            case .closed(let own, let key, let id):
                ends[End(router: own, peer: key, id: id)] = nil
                perform(routers[own].handle(.closed(id), from: key, now: now, random: chance), own)
            }
        }
    }

    private static func range(_ number: Int) -> CIDR {
        CIDR(containing: .v4(0x0A2A_0000 + UInt32(number) << 8), prefixLength: 24)
    }

    /// Fifty nodes, each with a session with each other one: all know all, by the shortest way.
    @Test func aFullMeshOfFiftyConverges() {
        let count = 50
        var world = World(count)
        for number in 0..<count { world.tell(number, [Self.range(number)]) }
        for one in 0..<count { for other in 0..<one { world.link(one, other) } }
        let isWhole = world.run(until: .seconds(120)) { world in world.installed.allSatisfy { $0.count == count - 1 } }
        #expect(isWhole, "\(world.installed.map(\.count))")
        for (number, routes) in world.installed.enumerated() {
            for other in 0..<count where other != number {
                #expect(routes[Self.range(other)] == [World.address(other)])
            }
        }
        // One that takes its range back is heard by all.
        world.tell(7, [])
        let isGone = world.run(until: world.now + .seconds(1)) { world in
            world.installed.allSatisfy { $0[Self.range(7)] == nil }
        }
        #expect(isGone)
    }

    @Test func reflectorsTellClientsOfEachOther() {
        let reflectors: Set<Int> = [0, 1]
        var world = World(8, reflectors: reflectors)
        for number in 0..<8 { world.tell(number, [Self.range(number)]) }
        for one in 0..<8 {
            for other in 0..<one where reflectors.contains(one) || reflectors.contains(other) {
                world.link(one, other, reflectors: reflectors)
            }
        }
        #expect(
            world.run(until: .seconds(60)) { $0.installed.allSatisfy { $0.count == 7 } },
            "\(world.installed.map(\.count))")
        // The next hop is the node itself, not its reflector.
        #expect(world.installed[5][Self.range(6)] == [World.address(6)])
    }

    private static func endsOfRIB(_ actions: [RouterAction]) -> [PeerKey] {
        let ends = IPFamily.allCases.map { UpdateWriter(context: UpdateContext(isExternal: false)).endOfRIB($0) }
        return actions.compactMap {
            if case .send(let key, _, let bytes) = $0, ends.contains(bytes) { key } else { nil }
        }
    }

    /// A reflector that restarts lets clients keep what they know of each other until it knows it again.
    @Test func aRestartedReflectorSaysLastThatAllIsTold() throws {
        var router = Router(localAS: 64512, identifier: 1, isReflector: true, isRestarting: true)
        let keys = (0..<3).map { World.key(90 + $0) }
        let settings = World.settings(64512, 64512, 0, isClient: true)
        let ends = IPFamily.allCases.map { UpdateWriter(context: UpdateContext(isExternal: false)).endOfRIB($0) }
        for key in keys { _ = router.add(key, settings, now: .zero, random: 0) }
        // One that restarts too, and waits as well, is not waited for.
        #expect(Self.endsOfRIB(Self.established(keys[0], settings, restart: (true, 120), &router).actions).isEmpty)
        for key in keys[1...] {
            #expect(!router.mayEndDeferral(now: .zero))
            let (id, actions) = Self.established(key, settings, restart: (false, 120), &router)
            #expect(Self.endsOfRIB(actions).isEmpty)
            #expect(!router.mayEndDeferral(now: .zero))
            #expect(Self.endsOfRIB(Self.receive(ends, id, key, &router)).isEmpty)
        }
        #expect(router.mayEndDeferral(now: .zero) && !router.hasHeardAll(now: .zero))
        #expect(Self.endsOfRIB(router.endDeferral()) == keys.flatMap { [$0, $0] })
        #expect(router.endDeferral().isEmpty)
        // Others are told at once.
        var other = Router(localAS: 64512, identifier: 1, isRestarting: true)
        let actions = Self.established(keys[0], settings, restart: (false, 120), &other).actions
        #expect(Self.endsOfRIB(actions) == [keys[0], keys[0]])
    }

    /// Behind two routers of another AS: both ways are used at once, and one when the other goes.
    @Test func equalWaysShareTheTraffic() {
        var world = World(3) { $0 == 0 ? 64512 : 64600 }
        world.tell(1, [Self.range(9)])
        world.tell(2, [Self.range(9)])
        world.link(0, 1)
        world.link(0, 2)
        let both: Set<IPAddress> = [World.address(1), World.address(2)]
        #expect(world.run(until: .seconds(30)) { $0.installed[0][Self.range(9)] == both })
        world.tell(1, [])
        #expect(world.run(until: world.now + .seconds(1)) { $0.installed[0][Self.range(9)] == [World.address(2)] })
    }

    @Test func aLostPeersRoutesGoAndComeBack() {
        var world = World(2) { $0 == 0 ? 64512 : 64600 }
        world.tell(1, [Self.range(1)])
        world.link(0, 1)
        #expect(world.run(until: .seconds(30)) { $0.installed[0].count == 1 })
        world.isCut = { _, _ in true }
        // The hold timer, and then the time that a peer with graceful restart may be away.
        #expect(world.run(until: world.now + .seconds(300)) { $0.installed[0].isEmpty })
        world.isCut = { _, _ in false }
        #expect(world.run(until: world.now + .seconds(600)) { $0.installed[0].count == 1 })
    }

    /// - Parameter restart: what the peer says of graceful restart; `nil`: nothing.
    private static func established(
        _ key: PeerKey, _ settings: PeerSettings, restart: (isRestarting: Bool, time: UInt16)? = nil,
        _ router: inout Router
    ) -> (id: ConnectionID, actions: [RouterAction]) {
        let id = ConnectionID(side: .incoming, number: 1)
        _ = router.add(key, settings, now: .zero, random: 0)
        _ = router.opened(id, of: key, from: IPAddress.v4(0x0A00_0001), now: .zero, random: 0)
        var peer = SessionSettings(localAS: settings.session.peerAS ?? 0, identifier: 99, peerAS: router.localAS)
        peer.gracefulRestart = restart.map { .init(time: $0.time) }
        let open = peer.open(isRestarting: restart?.isRestarting ?? false)
        return (id, receive([Message.open(open).bytes, Message.keepalive.bytes], id, key, &router))
    }

    private static func update(
        _ prefixes: [CIDR], path: [UInt32], context: UpdateContext = UpdateContext(isExternal: true)
    ) throws -> [[UInt8]] {
        var attributes = PathAttributes()
        attributes.asPath = ASPath(path)
        return try UpdateWriter(context: context).announce(prefixes, nextHop: NextHop(.v4(0x0A00_0063)), attributes)
    }

    private static func receive(_ messages: [[UInt8]], _ id: ConnectionID, _ key: PeerKey, _ router: inout Router)
        -> [RouterAction]
    {
        var frames = MessageFrames()
        var actions: [RouterAction] = []
        for message in messages {
            frames.append(message)
            while let frame = try? frames.next() {
                actions += router.handle(.received(frame, id), from: key, now: .zero, random: 0)
            }
        }
        return actions
    }

    @Test func onlyWhatFiltersAllowIsLearnt() throws {
        var router = Router(localAS: 64512, identifier: 1)
        let key = World.key(98)
        var settings = World.settings(64512, 64600, 0)
        settings.imports = [
            PrefixFilter(Self.range(0)), PrefixFilter(CIDR(containing: .v4(0), prefixLength: 0), lengths: 0...0),
        ]
        let (id, _) = Self.established(key, settings, &router)
        #expect(router.peers[key]?.session.state == .established)
        let all = CIDR(containing: .v4(0), prefixLength: 0)
        _ = Self.receive(
            try Self.update([Self.range(0), Self.range(1), all], path: [64600]), id, key, &router)
        #expect(Set(router.best.keys) == [Self.range(0), all])
        #expect(router.peers[key]?.filtered == 1)
        // A path through this AS is a loop, and takes the place of what was good.
        _ = Self.receive(try Self.update([Self.range(0)], path: [64600, 64512]), id, key, &router)
        #expect(Set(router.best.keys) == [all])
    }

    @Test func aPeerThatTellsTooMuchIsCutOff() throws {
        var router = Router(localAS: 64512, identifier: 1)
        let key = World.key(98)
        let (id, _) = Self.established(key, World.settings(64512, 64600, 0, limit: 10), &router)
        let actions = Self.receive(try Self.update((0..<11).map(Self.range), path: [64600]), id, key, &router)
        #expect(actions.contains { if case .tooManyRoutes(key) = $0 { true } else { false } })
    }

    /// What is malformed is treated as withdrawn; the session and everything else stay.
    @Test func aMalformedRouteIsWithdrawn() throws {
        var router = Router(localAS: 64512, identifier: 1)
        let key = World.key(98)
        let (id, _) = Self.established(key, World.settings(64512, 64600, 0), &router)
        _ = Self.receive(try Self.update([Self.range(1)], path: [64600]), id, key, &router)
        _ = Self.receive(try Self.update([Self.range(2)], path: [64600]), id, key, &router)
        var broken = try Self.update([Self.range(1)], path: [64600])[0]
        // ORIGIN, the first attribute, becomes one that is not defined.
        broken[26] = 9
        _ = Self.receive([broken], id, key, &router)
        #expect(Set(router.best.keys) == [Self.range(2)])
        #expect(router.peers[key]?.session.state == .established && router.peers[key]?.malformed == 1)
    }

    @Test func oneHundredThousandRoutesAreLearntInTime() throws {
        var router = Router(localAS: 64512, identifier: 1)
        let key = World.key(98)
        let (id, _) = Self.established(key, World.settings(64512, 64600, 0), &router)
        let prefixes = (0..<100_000).map { CIDR(containing: .v4(0x1400_0000 + UInt32($0) << 8), prefixLength: 24) }
        let messages = try Self.update(prefixes, path: [64600, 64601])
        let time = ContinuousClock().measure { _ = Self.receive(messages, id, key, &router) }
        #expect(router.best.count == 100_000)
        #expect(time < .seconds(20), "\(time)")
    }
}
