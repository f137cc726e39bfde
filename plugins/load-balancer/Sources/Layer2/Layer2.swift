import HashTreeCollections
import KnetBFD
import KnetCore
import KnetLinux
import Synchronization

/// Addresses on the link: one node of all answers for each, and another when that one goes.
final class Layer2: Sendable {
    private struct Shared {
        var ownership: Ownership
        var state = ClusterState()
        /// What changed before this node was known, or since it was last decided.
        var pending: Set<ObjectKey> = []
        /// Nodes by where they are asked.
        var neighbours: [String: IPAddress] = [:]
        var lives: [String: Ownership.Life] = [:]
        /// Until then this node answers for nothing, if it has not heard from all others before.
        var patience: ContinuousClock.Instant?
    }

    private let settings: LoadBalancer.Settings.Layer2
    private let liveness: LivenessWatch
    private let announcer: Announcer
    private let shared: Mutex<Shared>

    /// A node that begins asks whether others are there before it answers for all.
    private static let patience = Duration.seconds(2)
    /// A neighbour that begins anew comes up within this time.
    private static let restart = Duration.seconds(3)

    init(_ settings: LoadBalancer.Settings, _ layer2: LoadBalancer.Settings.Layer2, liveness: LivenessWatch) throws {
        self.settings = layer2
        self.liveness = liveness
        announcer = try Announcer()
        shared = Mutex(Shared(ownership: Ownership(settings, layer2)))
    }

    var faults: [String] { [announcer.fault, liveness.fault].compactMap(\.self) }
    var figures: [IPAddress: Announcer.Figures] { announcer.figures }
    var interfaces: [String] { announcer.interfaces }

    /// Who answers for the addresses of the Service.
    func answers(of service: ObjectKey) -> [IPAddress: Ownership.Answer] {
        shared.withLock { $0.ownership.answers[service] ?? [:] }
    }

    /// What is known of the other nodes.
    var neighbours: [(node: String, known: String)] {
        shared.withLock(\.neighbours).sorted { $0.key < $1.key }.map { name, address in
            (name, liveness.neighbour(address).map { "\($0.liveness): \($0.reason)" } ?? "not watched")
        }
    }

    func follow(_ keys: Set<ObjectKey>, in state: ClusterState) {
        if keys.contains(.local) || keys.contains(where: { $0.kind == .node }) {
            watchNodes(state)
            // What fails here is tried again as the reconciler reads.
            try? useInterfaces(state)
        }
        decide(keys.filter { $0.kind == .service || $0.kind == .node || $0 == .local }, in: state)
    }

    /// Links came or went.
    func useInterfaces(_ state: ClusterState? = nil) throws {
        guard let local = (state ?? shared.withLock(\.state)).local else { return }
        try announcer.use(
            Set(settings.interfaces.isEmpty ? local.uplinks.values.map(\.link) : settings.interfaces))
    }

    /// Decides again while time alone changes what is known.
    func run() async {
        while (try? await Task.sleep(for: .milliseconds(250))) != nil {
            let mustLook = shared.withLock { shared in
                shared.patience != nil
                    || shared.neighbours.values.contains { liveness.neighbour($0)?.liveness == .restarting }
            }
            if mustLook { decide([], in: nil) }
        }
        announcer.stop()
    }

    private func watchNodes(_ state: ClusterState) {
        guard let own = state.local?.name else { return }
        let neighbours = Dictionary(
            uniqueKeysWithValues: state.nodes.values.compactMap { node -> (String, IPAddress)? in
                guard node.key.name != own, let address = node.internalIP(.v4) ?? node.internalIP(.v6) else {
                    return nil
                }
                return (node.key.name, address)
            })
        let isNews = shared.withLock { shared in
            if shared.patience == nil, shared.neighbours.isEmpty, !neighbours.isEmpty {
                shared.patience = .now + Self.patience
            }
            defer { shared.neighbours = neighbours }
            return shared.neighbours != neighbours
        }
        guard isNews else { return }
        let pace = LivenessWatch.Pace(
            interval: settings.interval, multiplier: settings.multiplier, hasFarewell: true)
        let paces = Dictionary(neighbours.values.map { ($0, pace) }, uniquingKeysWith: { $1 })
        liveness.watch(paces, for: LoadBalancer.settings.name) { [weak self] in self?.decide([], in: nil) }
    }

    /// - Parameter state: `nil`: as before; only what is known of nodes may have changed.
    private func decide(_ keys: Set<ObjectKey>, in state: ClusterState?) {
        let now = liveness.now
        shared.withLock { shared in
            if let state { shared.state = state }
            shared.pending.formUnion(keys)
            guard let own = shared.state.local?.name else { return }
            var lives: [String: Ownership.Life] = [:]
            for (name, address) in shared.neighbours { lives[name] = life(address, now) }
            // Whoever hears of nobody any more must not take all for dead.
            guard !liveness.isEnding else { return }
            let isChanged = lives != shared.lives
            guard isChanged || !shared.pending.isEmpty || shared.patience != nil else { return }
            // Who came back may have answered for ours meanwhile.
            let isBack = lives.contains { $0.value == .alive && shared.lives[$0.key] != .alive }
            shared.lives = lives
            var keys = shared.pending
            shared.pending = []
            if isChanged || keys.contains(.local) { keys.insert(.node(own)) }
            shared.ownership.follow(keys, in: shared.state, own: own) {
                lives[$0.key.name] ?? .away("it has no address")
            }
            if let until = shared.patience {
                guard until <= .now || lives.values.allSatisfy({ $0 == .alive }) else { return }
                shared.patience = nil
            }
            // Within the lock: what is known later is answered for later.
            announcer.answer(for: shared.ownership.owned(by: own), again: isBack)
        }
    }

    private func life(_ address: IPAddress, _ now: Duration) -> Ownership.Life {
        guard let neighbour = liveness.neighbour(address) else { return .away("it is not watched") }
        switch neighbour.liveness {
        case .up: return .alive
        case .restarting where neighbour.since + Self.restart > now: return .alive
        case .restarting, .unknown, .silent, .ended: return .away(neighbour.reason)
        }
    }
}
