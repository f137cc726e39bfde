import Glibc
import KnetCore
import KnetPlayground
import TestSupport
import Testing

/// Network policies: what real packets do between nine pods is what an evaluator of the tests' own says.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct PolicyTests {
    /// How many random sets and steps: `make nightly` asks for many more.
    private static let runs = getenv("KNETD_POLICY_RUNS").flatMap { Int(String(cString: $0)) } ?? 60

    /// Of so many flows of a set of policies one is explained. All of the hand-written ones take five minutes.
    private static let explained = getenv("KNETD_POLICY_EXPLAIN").flatMap { Int(String(cString: $0)) } ?? 19

    /// The seed of this run, told so that it can be run again.
    private static func seed() -> UInt64 {
        let seed =
            getenv("KNETD_SEED").flatMap { UInt64(String(cString: $0)) } ?? UInt64.random(in: 0...UInt64.max)
        print("KNETD_SEED=\(seed)")
        return seed
    }

    @Test func handWrittenPolicies() throws {
        try PolicyStage.with { stage in
            for (turn, tried) in PolicyCase.all.enumerated() {
                let world = try tried.world(stage.world)
                if let mismatch = try stage.mismatch(world) {
                    Issue.record("\(tried.name)\n\(tried.policies)\n\(mismatch)")
                }
                let wrong = try stage.wrongExplanations(world, turn: turn, every: Self.explained)
                if !wrong.isEmpty { Issue.record("\(tried.name)\n\(tried.policies)\n\(wrong.prefix(20))") }
            }
            print("\(PolicyCase.all.count) sets of policies, the slowest in force after \(stage.slowest) ms")
        }
    }

    @Test func randomPolicies() throws {
        let seed = Self.seed()
        try PolicyStage.with { stage in
            for run in 0..<Self.runs {
                let own = seed &+ UInt64(run)
                var generator = PolicyGenerator(seed: own)
                let world = generator.world(stage.world)
                guard let mismatch = try stage.mismatch(world) else {
                    let wrong = try stage.wrongExplanations(world, turn: run, every: Self.explained)
                    guard !wrong.isEmpty else { continue }
                    Issue.record("KNETD_SEED=\(own) KNETD_POLICY_RUNS=1\n\(wrong.prefix(20))\n\(world.text)")
                    return
                }
                let isLasting = try stage.mismatch(world) != nil
                let smallest = try PolicyShrinker.shrink(world, mismatch) { try stage.mismatch($0) }
                Issue.record(
                    """
                    KNETD_SEED=\(own) KNETD_POLICY_RUNS=1\(isLasting ? "" : ", though only at first")
                    \(smallest.mismatch)
                    \(smallest.world.text)
                    """)
                return
            }
            print("\(Self.runs) sets of policies, the slowest in force after \(stage.slowest) ms")
        }
    }

    @Test func policiesHoldWhileTheyChange() throws {
        let seed = Self.seed()
        try PolicyStage.with { stage in
            var generator = PolicyGenerator(seed: seed)
            var world = generator.world(stage.world)
            for step in 0..<Self.runs {
                let before = world
                world = generator.changed(world)
                guard let mismatch = try stage.mismatch(world) else { continue }
                Issue.record(
                    """
                    KNETD_SEED=\(seed), step \(step)
                    \(mismatch)
                    from \(before.text)
                    to \(world.text)
                    """)
                return
            }
            print("\(Self.runs) changes, the slowest in force after \(stage.slowest) ms")
        }
    }

    /// The same side of the same pod denies it before and after each change: no two nodes need to change at once.
    @Test(arguments: PolicyOracle.Side.allCases)
    func noForbiddenPacketPassesFromOneDenyingStateToTheNext(side: PolicyOracle.Side) throws {
        let seed = Self.seed()
        var generator = PolicyGenerator(seed: seed)
        // A neighbour on the same node, and one on the other.
        let pairs = ["z/c", "z/b"].map { side == .ingress ? (from: $0, to: "x/a") : (from: "x/a", to: $0) }
        let forbidden = pairs.flatMap { PolicyFlow.flows(from: $0.from, to: $0.to) }
        func isDenied(_ world: PolicyWorld) -> Bool {
            let oracle = PolicyOracle(world.objects)
            return !forbidden.contains { oracle.allows($0, on: side) }
        }
        try PolicyStage.with { stage in
            let denied = PolicyCase("denied", "x/deny: {podSelector: {}, policyTypes: [\(side.rawValue)]}")
            var world = try denied.world(stage.world)
            if let mismatch = try stage.mismatch(world) {
                Issue.record("\(mismatch)")
                return
            }
            let knockers = try pairs.map { try PolicyKnocker(from: $0.from, to: $0.to, stage) }
            defer { for knocker in knockers { knocker.stop() } }
            var changes = 0
            while changes < 100 {
                let next = generator.changed(world)
                guard isDenied(next) else { continue }
                changes += 1
                try stage.apply(next)
                // Some changes come upon each other, others find all at rest.
                usleep(changes % 3 == 0 ? 20_000 : 0)
                let arrived = knockers.map(\.arrived)
                guard arrived.allSatisfy(\.isEmpty) else {
                    Issue.record(
                        """
                        KNETD_SEED=\(seed), change \(changes): \(arrived) of \(pairs)
                        from \(world.text)
                        to \(next.text)
                        """)
                    return
                }
                world = next
            }
            usleep(100_000)
            let arrived = knockers.map(\.arrived)
            #expect(arrived.allSatisfy { $0.isEmpty }, "KNETD_SEED=\(seed): \(arrived) of \(pairs)")
            // And it would have been seen: both ports, transports and families.
            try stage.apply(stage.world)
            try eventually(within: 3) { knockers.allSatisfy { $0.arrived.count == 8 } }
        }
    }
}
