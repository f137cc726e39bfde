import KnetCore
import KnetLinux
import Synchronization

/// What peers have told, in the kernel's main table under a route protocol number of its own.
final class LearntRoutes: Sendable {
    private struct Shared {
        var wanted: [CIDR: Set<IPAddress>] = [:]
        /// As the kernel has them, as far as is known.
        var present: [CIDR: Set<IPAddress>] = [:]
        var refused: [CIDR: String] = [:]
        /// Routes of an earlier process that nobody has spoken of yet: they stay.
        var held: Set<CIDR>
    }

    private let shared: Mutex<Shared>
    private let pool: NetlinkPool

    /// - Throws: where the kernel's routes cannot be read.
    init(pool: NetlinkPool) throws {
        self.pool = pool
        let present = try Self.read(pool)
        shared = Mutex(Shared(present: present, held: Set(present.keys)))
    }

    /// Whether an earlier process left routes.
    var isHeld: Bool { shared.withLock { !$0.held.isEmpty } }

    /// What the kernel refuses, and why.
    var refused: [CIDR: String] { shared.withLock { $0.refused } }

    var count: Int { shared.withLock { $0.present.count } }

    /// - Parameter changes: gateways of each prefix; none where it is gone.
    func change(_ changes: [CIDR: Set<IPAddress>]) {
        shared.withLock { shared in
            for (prefix, gateways) in changes {
                shared.wanted[prefix] = gateways.isEmpty ? nil : gateways
                shared.held.remove(prefix)
                shared.refused[prefix] = nil
            }
            settle(Set(changes.keys), &shared)
        }
    }

    /// Lets go of what an earlier process left and nobody told again.
    func release() {
        shared.withLock { shared in
            let held = shared.held
            shared.held = []
            settle(held, &shared)
        }
    }

    /// Puts right what others changed, and tries again what was refused.
    func compare() throws {
        try shared.withLock { shared in
            shared.present = try Self.read(pool)
            shared.refused = [:]
            settle(Set(shared.present.keys).union(shared.wanted.keys), &shared)
        }
    }

    /// Takes all away.
    static func remove(_ pool: NetlinkPool) throws {
        let present = try read(pool)
        guard !present.isEmpty else { return }
        try pool.with { socket in
            var batch = NetlinkBatch()
            for (prefix, gateways) in present {
                batch.append(.deleteGatewayRoute(GatewayRoute(destination: prefix, gateways: gateways)))
            }
            _ = try socket.send(batch)
        }
    }

    private static func read(_ pool: NetlinkPool) throws -> [CIDR: Set<IPAddress>] {
        try pool.with { socket in
            try IPFamily.allCases.reduce(into: [:]) { found, family in
                for route in try socket.gatewayRoutes(family) { found[route.destination] = route.gateways }
            }
        }
    }

    private func settle(_ prefixes: Set<CIDR>, _ shared: inout Shared) {
        var steps: [(prefix: CIDR, gateways: Set<IPAddress>?)] = []
        for prefix in prefixes where shared.wanted[prefix] != shared.present[prefix] {
            if shared.wanted[prefix] == nil, shared.held.contains(prefix) { continue }
            steps.append((prefix, shared.wanted[prefix]))
        }
        // What is new comes before what goes.
        steps.sort { ($0.gateways == nil ? 1 : 0, $0.prefix) < ($1.gateways == nil ? 1 : 0, $1.prefix) }
        guard !steps.isEmpty else { return }
        do {
            let outcomes = try pool.with { socket in
                var batch = NetlinkBatch()
                for step in steps {
                    let route = GatewayRoute(
                        destination: step.prefix, gateways: step.gateways ?? shared.present[step.prefix] ?? [])
                    batch.append(step.gateways == nil ? .deleteGatewayRoute(route) : .setGatewayRoute(route))
                }
                return try socket.send(batch)
            }
            for (step, error) in zip(steps, outcomes) {
                // One that is gone already is gone.
                if let error, let gateways = step.gateways {
                    shared.refused[step.prefix] = "\(error)"
                    shared.present[step.prefix] = try accept(
                        gateways, step.prefix, present: shared.present[step.prefix])
                } else {
                    shared.present[step.prefix] = step.gateways
                }
            }
        } catch {
            for step in steps { shared.refused[step.prefix] = "\(error)" }
        }
    }

    /// The kernel refuses all gateways for one that it cannot reach: the others are used, and one that was taken back is not.
    /// - Returns: what the kernel has then.
    private func accept(_ gateways: Set<IPAddress>, _ prefix: CIDR, present: Set<IPAddress>?) throws -> Set<IPAddress>?
    {
        try pool.with { socket in
            func set(_ gateways: Set<IPAddress>) throws -> Bool {
                var batch = NetlinkBatch()
                batch.append(.setGatewayRoute(GatewayRoute(destination: prefix, gateways: gateways)))
                return try socket.send(batch).allSatisfy { $0 == nil }
            }
            var accepted: Set<IPAddress> = []
            if gateways.count > 1 { for gateway in gateways where try set([gateway]) { accepted.insert(gateway) } }
            if !accepted.isEmpty {
                _ = try set(accepted)
                return accepted
            }
            guard let present, present.isDisjoint(with: gateways) else { return present }
            var batch = NetlinkBatch()
            batch.append(.deleteGatewayRoute(GatewayRoute(destination: prefix, gateways: present)))
            _ = try socket.send(batch)
            return nil
        }
    }
}
