import KnetCore

/// A BGP speaker without sockets and clock: what its peers say comes in, what is to be done goes out (RFC 4271 §3, §9).
struct Router: Sendable {
    let localAS: UInt32
    let identifier: UInt32
    /// Passes routes of internal peers on to its clients and back (RFC 4456).
    private(set) var isReflector: Bool
    private(set) var peers: [PeerKey: Peer] = [:]
    /// This node's own.
    private(set) var local: [CIDR: LocalRoute] = [:]
    /// The best of what is learnt, the very best first.
    private(set) var best: [CIDR: [Candidate]] = [:]
    /// Whether routes of an earlier process may still be with the peers.
    private let isRestarting: Bool
    /// Whether peers are not to take what they were told for all yet: their routes of each other come from here.
    var isDeferring: Bool
    var actions: [RouterAction] = []

    init(localAS: UInt32, identifier: UInt32, isReflector: Bool = false, isRestarting: Bool = false) {
        self.localAS = localAS
        self.identifier = identifier
        self.isReflector = isReflector
        self.isRestarting = isRestarting
        isDeferring = isReflector && isRestarting
    }

    // MARK: What happens

    mutating func add(_ key: PeerKey, _ settings: PeerSettings, now: Duration, random: Double) -> [RouterAction] {
        peers[key] = Peer(settings, now: now)
        return handle(.start(isRestarting: isRestarting), from: key, now: now, random: random)
    }

    /// - Parameter reason: what the peer is told.
    mutating func remove(_ key: PeerKey, _ reason: StopReason, now: Duration, random: Double) -> [RouterAction] {
        var done = handle(.stop(reason), from: key, now: now, random: random)
        let gone = Set(peers[key]?.learnt.keys ?? [:].keys)
        peers[key] = nil
        done += collect { $0.decide(gone) }
        return done
    }

    /// - Parameter address: this node's own on the connection.
    mutating func opened(
        _ connection: ConnectionID, of key: PeerKey, from address: IPAddress?, now: Duration, random: Double
    ) -> [RouterAction] {
        peers[key]?.ownAddresses[connection] = address
        return handle(.opened(connection), from: key, now: now, random: random)
    }

    mutating func handle(_ event: SessionEvent, from key: PeerKey, now: Duration, random: Double) -> [RouterAction] {
        guard var peer = peers[key] else { return [] }
        let wanted = peer.session.handle(event, now: now, random: random)
        peers[key] = peer
        return collect { router in
            for action in wanted { router.perform(action, key) }
        }
    }

    /// Puts these in the place of the routes that this node had.
    mutating func setLocal(_ routes: [CIDR: LocalRoute]) -> [RouterAction] {
        let changed = Set(routes.keys).union(local.keys).filter { routes[$0] != local[$0] }
        local = routes
        guard !changed.isEmpty else { return [] }
        return collect { router in
            router.decide(changed)
            router.tellAll(changed)
        }
    }

    mutating func setReflector(_ isReflector: Bool) -> [RouterAction] {
        guard isReflector != self.isReflector else { return [] }
        self.isReflector = isReflector
        return collect { $0.tellAll(Set($0.best.keys)) }
    }

    mutating func collect(_ body: (inout Router) -> Void) -> [RouterAction] {
        actions = []
        defer { actions = [] }
        body(&self)
        return actions
    }

    // MARK: Sessions

    private mutating func perform(_ action: SessionAction, _ key: PeerKey) {
        switch action {
        case .connect(let id): actions.append(.connect(key, id))
        case .close(let id):
            actions.append(.close(key, id))
            peers[key]?.ownAddresses[id] = nil
        case .send(let message, let id): actions.append(.send(key, id, message.bytes))
        case .setTimer(let timer, let after): actions.append(.setTimer(key, timer, after: after))
        case .cancelTimer(let timer): actions.append(.cancelTimer(key, timer))
        case .up(let negotiated, let id): begin(key, negotiated, id)
        case .down(let reason, let kept): end(key, reason, kept)
        case .update(let reading): take(reading, key)
        case .refresh(let family): tellAgain(key, family)
        case .removeStale(let families): removeStale(key, families)
        case .finished: actions.append(.finished(key))
        }
    }

    private mutating func begin(_ key: PeerKey, _ negotiated: Negotiated, _ id: ConnectionID) {
        peers[key]?.established = (id, negotiated)
        peers[key]?.advertised = [:]
        peers[key]?.filtered = 0
        peers[key]?.toldAll = []
        actions.append(.up(key))
        tell(key, Set(local.keys).union(best.keys))
        if !isDeferring { sayAllIsTold(key) }
    }

    mutating func sayAllIsTold(_ key: PeerKey) {
        guard let context = peers[key]?.established?.negotiated.context else { return }
        for family in context.families.sorted() { send(key, [UpdateWriter(context: context).endOfRIB(family)]) }
    }

    private mutating func end(_ key: PeerKey, _ reason: DownReason, _ kept: Set<IPFamily>) {
        peers[key]?.established = nil
        peers[key]?.advertised = [:]
        actions.append(.down(key, reason))
        var gone: Set<CIDR> = []
        for (prefix, _) in peers[key]?.learnt ?? [:] {
            if kept.contains(prefix.family) {
                peers[key]?.learnt[prefix]?.isStale = true
            } else {
                gone.insert(prefix)
            }
        }
        for prefix in gone { peers[key]?.learnt[prefix] = nil }
        changed(gone)
    }

    private mutating func removeStale(_ key: PeerKey, _ families: Set<IPFamily>) {
        let stale = (peers[key]?.learnt ?? [:]).filter { families.contains($0.key.family) && $0.value.isStale }
        for prefix in stale.keys { peers[key]?.learnt[prefix] = nil }
        changed(Set(stale.keys))
    }

    // MARK: What is learnt

    private mutating func take(_ reading: UpdateReading, _ key: PeerKey) {
        guard var peer = peers.removeValue(forKey: key) else { return }
        var changes: Set<CIDR> = []
        if let fault = reading.malformations.last {
            peer.malformed += 1
            peer.lastFault = "\(fault)"
        }
        for prefix in reading.update.withdrawn where peer.learnt.removeValue(forKey: prefix) != nil {
            changes.insert(prefix)
        }
        for announcement in reading.update.announced {
            let route = LearntRoute(nextHop: announcement.nextHop, attributes: reading.update.attributes)
            let isLoop = isLoop(route, peer)
            for prefix in announcement.prefixes {
                guard !isLoop, peer.settings.imports.contains(where: { $0.admits(prefix) }) else {
                    // One that was usable before is replaced by one that is not.
                    peer.filtered += 1
                    if peer.learnt.removeValue(forKey: prefix) != nil { changes.insert(prefix) }
                    continue
                }
                if peer.learnt.updateValue(route, forKey: prefix) != route { changes.insert(prefix) }
            }
        }
        if let family = reading.update.endOfRIB { peer.toldAll.insert(family) }
        let isTooMuch = peer.learnt.count > peer.settings.routeLimit
        peers[key] = peer
        changed(changes)
        if isTooMuch { actions.append(.tooManyRoutes(key)) }
    }

    /// Whether the route has been here before (RFC 4271 §9.1.2, RFC 4456 §8), or leads here.
    private func isLoop(_ route: LearntRoute, _ peer: Peer) -> Bool {
        let own = route.attributes.asPath.segments.reduce(0) { $0 + $1.numbers.count { $0 == localAS } }
        return own > peer.settings.allowedOwnAS || route.attributes.originatorID == identifier
            || route.attributes.clusterList.contains(identifier)
            || peer.settings.nextHops.values.contains(route.nextHop.address)
    }

    private mutating func changed(_ prefixes: Set<CIDR>) {
        guard !prefixes.isEmpty else { return }
        decide(prefixes)
        if isReflector { tellAll(prefixes) }
    }

    /// Chooses anew among the routes to these prefixes.
    private mutating func decide(_ prefixes: Set<CIDR>) {
        var changes: [CIDR: Set<IPAddress>] = [:]
        for prefix in prefixes {
            let candidates = peers.compactMap { key, peer in
                peer.learnt[prefix].map {
                    Candidate(
                        peer: key, isExternal: peer.isExternal,
                        identifier: peer.established?.negotiated.peerIdentifier ?? .max, route: $0)
                }
            }
            // What this node has itself is not elsewhere.
            let chosen = local[prefix] == nil ? Decision.best(candidates) : []
            let before = Self.gateways(best[prefix] ?? [])
            best[prefix] = chosen.isEmpty ? nil : chosen
            let after = Self.gateways(chosen)
            if before != after { changes[prefix] = after }
        }
        if !changes.isEmpty { actions.append(.routes(changes)) }
    }

    private static func gateways(_ candidates: [Candidate]) -> Set<IPAddress> {
        Set(candidates.map(\.route.nextHop.address))
    }

    // MARK: What is told

    private mutating func tellAll(_ prefixes: Set<CIDR>) {
        for key in peers.keys.sorted() { tell(key, prefixes) }
    }

    private mutating func tellAgain(_ key: PeerKey, _ family: IPFamily) {
        peers[key]?.refreshes += 1
        for prefix in peers[key]?.advertised.keys.filter({ $0.family == family }) ?? [] {
            peers[key]?.advertised[prefix] = nil
        }
        tell(key, Set(local.keys).union(best.keys).filter { $0.family == family })
    }

    /// Tells a peer of these prefixes what it does not know yet.
    private mutating func tell(_ key: PeerKey, _ prefixes: Set<CIDR>) {
        guard let negotiated = peers[key]?.established?.negotiated, var peer = peers.removeValue(forKey: key) else {
            return
        }
        var withdrawn: [CIDR] = []
        var announced: [Advertisement: [CIDR]] = [:]
        for prefix in prefixes where negotiated.context.families.contains(prefix.family) {
            let wanted = advertisement(of: prefix, to: key, peer)
            guard wanted != peer.advertised[prefix] else { continue }
            peer.advertised[prefix] = wanted
            if let wanted { announced[wanted, default: []].append(prefix) } else { withdrawn.append(prefix) }
        }
        let writer = UpdateWriter(context: negotiated.context)
        var messages = writer.withdraw(withdrawn.sorted())
        for (advertisement, prefixes) in announced.sorted(by: { $0.value[0] < $1.value[0] }) {
            do {
                messages += try writer.announce(
                    prefixes.sorted(), nextHop: advertisement.nextHop, advertisement.attributes)
            } catch {
                // As if it had no such route.
                for prefix in prefixes { peer.advertised[prefix] = nil }
                messages += writer.withdraw(prefixes)
            }
        }
        peers[key] = peer
        send(key, messages)
    }

    private mutating func send(_ key: PeerKey, _ messages: [[UInt8]]) {
        guard var peer = peers[key], let id = peer.established?.connection, !messages.isEmpty else { return }
        for message in messages { actions.append(.send(key, id, message)) }
        _ = peer.session.handle(.sentUpdates(messages.count), now: peer.session.now, random: 0)
        peers[key] = peer
    }

    /// What the peer is to know of the prefix; `nil`: nothing.
    private func advertisement(of prefix: CIDR, to key: PeerKey, _ peer: Peer) -> Advertisement? {
        if let route = local[prefix] { return peer.nextHop(prefix.family).map { own(route, peer, $0) } }
        guard isReflector, let first = best[prefix]?.first, first.peer != key else { return nil }
        return reflected(first, peer)
    }

    private func own(_ route: LocalRoute, _ peer: Peer, _ nextHop: NextHop) -> Advertisement {
        var attributes = PathAttributes()
        attributes.communities = route.communities
        attributes.largeCommunities = route.largeCommunities
        if peer.isExternal {
            attributes.asPath = ASPath().prepending(localAS, count: 1 + route.prepend)
            attributes.med = route.med
        } else {
            attributes.localPreference = route.localPreference
        }
        return Advertisement(nextHop: nextHop, attributes: attributes)
    }

    /// RFC 4456 §6, §8: from clients to all internal peers, from others to clients; external peers learn nothing of others.
    private func reflected(_ route: Candidate, _ peer: Peer) -> Advertisement? {
        guard !peer.isExternal, !route.isExternal,
            peer.settings.isClient || peers[route.peer]?.settings.isClient == true,
            !route.route.attributes.communities.contains(.noAdvertise)
        else { return nil }
        var attributes = route.route.attributes
        attributes.originatorID = attributes.originatorID ?? route.identifier
        attributes.clusterList.insert(identifier, at: 0)
        return Advertisement(nextHop: route.route.nextHop, attributes: attributes)
    }
}
