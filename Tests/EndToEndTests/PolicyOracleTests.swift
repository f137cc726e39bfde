import KnetCore
import TestSupport
import Testing

/// The evaluator that policies are tested against, held against what was counted and named by hand.
@Suite struct PolicyOracleTests {
    /// As the playground's, without one.
    static let world = PolicyWorld(
        places: Dictionary(
            uniqueKeysWithValues: PolicyWorld.pods.enumerated().map { index, pod in
                let node = index % 2 + 1
                let texts = ["10.42.\(node).\(index + 2)", "fd42:0:0:\(node)::\(index + 2)"]
                return (pod, PolicyWorld.Place(node: "node\(node)", addresses: texts.compactMap { IPAddress($0) }))
            }))

    private static func allowed(_ name: String, _ isMeant: (PolicyFlow) -> Bool) throws -> [PolicyFlow] {
        let tried = try #require(PolicyCase.all.first { $0.name == name })
        let oracle = PolicyOracle(try tried.world(world).objects)
        return PolicyFlow.all.filter { isMeant($0) && oracle.allows($0) }
    }

    @Test func everyCaseHasANameOfItsOwn() {
        #expect(PolicyCase.all.count >= 60)
        #expect(Set(PolicyCase.all.map(\.name)).count == PolicyCase.all.count)
    }

    @Test(arguments: PolicyCase.all.filter { $0.allowed != nil })
    func asManyFlowsAreAllowedAsWereCounted(tried: PolicyCase) throws {
        let flows = try Self.allowed(tried.name) { _ in true }
        #expect(flows.count == tried.allowed)
    }

    private static let everybody = "x/a x/b x/c y/a y/b y/c z/a z/b z/c"

    /// Which pods reach one.
    private static let rows: [(name: String, destination: String, kind: String, sources: String)] = [
        ("both in one peer must hold", "x/a", "80/TCP IPv4", "x/a y/b"),
        ("of two peers one is enough", "x/c", "81/UDP IPv6", "x/b x/c y/a y/b y/c"),
        ("one IPv4 address", "x/b", "80/TCP IPv4", "x/b y/b"),
        ("one IPv4 address", "x/b", "80/TCP IPv6", "x/b"),
        ("a range without one address", "x/a", "80/TCP IPv4", "x/a x/c z/a z/c"),
        ("what one policy leaves out another admits", "x/b", "81/UDP IPv4", everybody),
        ("what one policy leaves out another admits", "x/c", "81/UDP IPv4", "x/a x/b x/c y/b y/c z/a z/b z/c"),
        ("a name is another port in each pod", "x/b", "81/TCP IPv6", everybody),
        ("a name is another port in each pod", "x/b", "80/TCP IPv6", "x/b"),
        ("a name is another port in each pod", "x/c", "80/TCP IPv4", "x/c"),
        ("a name counts for its transport alone", "x/c", "80/UDP IPv4", everybody),
        ("a name is that of the pod that is sent to", "y/c", "81/UDP IPv4", everybody),
        ("a name is that of the pod that is sent to", "y/c", "80/UDP IPv4", "y/a y/b y/c z/a z/b z/c"),
        ("each rule has its own peers and ports", "x/b", "81/TCP IPv4", "x/b z/a z/b z/c"),
        ("without the label no value is among those excluded", "x/b", "80/TCP IPv4", "x/b x/c"),
        ("all of several expressions must hold", "x/a", "80/TCP IPv4", "x/a x/b y/b z/b"),
        ("every namespace keeps to itself and one pod answers all", "z/a", "80/TCP IPv6", everybody),
        ("every namespace keeps to itself and one pod answers all", "z/a", "81/TCP IPv6", "z/a z/b z/c"),
        ("an operator that subjects cannot be found with keeps none out", "x/a", "80/TCP IPv4", everybody),
        ("an operator that subjects cannot be found with keeps none out", "x/c", "80/TCP IPv4", "x/c"),
        ("passing skips what comes later in the tier", "x/b", "80/TCP IPv4", everybody),
        ("passing skips what comes later in the tier", "y/a", "80/TCP IPv4", "x/a x/b x/c y/a z/a z/b z/c"),
        ("of the same priority the lesser name counts first", "x/a", "80/TCP IPv4", "x/a x/b x/c y/a y/b y/c"),
        ("of one policy's rules the first counts", "x/a", "80/TCP IPv4", "x/a x/b x/c y/b z/a z/b z/c"),
        ("the administrator is heard before the baseline", "x/a", "80/UDP IPv4", "x/a z/a z/b z/c"),
        ("networks", "y/b", "80/TCP IPv4", "y/a y/b y/c z/a z/b z/c"), ("networks", "y/a", "80/TCP IPv4", everybody),
        ("networks", "y/a", "80/TCP IPv6", "y/a y/b y/c z/a z/b z/c"),
        ("all tiers and both sides", "x/a", "80/TCP IPv4", "x/a"),
        ("all tiers and both sides", "x/a", "80/TCP IPv6", "x/a x/c"),
    ]

    @Test func thePodsThatWereNamedReachAPodAndNoOthers() throws {
        for row in Self.rows {
            let flows = try Self.allowed(row.name) { $0.destination == row.destination && $0.kind == row.kind }
            #expect(
                flows.map(\.source) == row.sources.split(separator: " ").map(String.init),
                "\(row.name): \(row.kind) to \(row.destination)")
        }
    }

    @Test func randomSetsAreSeldomAllOrNothing() {
        let counts = (0..<20).map { seed in
            var generator = PolicyGenerator(seed: UInt64(seed))
            let oracle = PolicyOracle(generator.world(Self.world).objects)
            return PolicyFlow.all.count { oracle.allows($0) }
        }
        #expect(counts.count { $0 > 72 && $0 < 648 } >= 15, "\(counts)")
    }

    @Test func aCaseShrinksToThePartThatIsWrong() throws {
        var generator = PolicyGenerator(seed: 1)
        var world = generator.world(Self.world)
        while !world.text.contains("\"Deny\"") { world = generator.changed(world) }
        let wrong = PolicyStage.Mismatch(leaked: [], missing: [])
        let smallest = PolicyShrinker.shrink(world, wrong) { $0.text.contains("\"Deny\"") ? wrong : nil }.world
        #expect(smallest.policies.count == 1)
        let spec = try #require(smallest.policies.first?["spec"])
        let rules = ["ingress", "egress"].flatMap { spec[$0]?.array ?? [] }
        #expect(rules.count == 1 && rules.first?["action"] == "Deny", "\(smallest.text)")
    }
}
