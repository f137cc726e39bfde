import Glibc
import KnetCore
import KnetPlayground
import TestSupport
import Testing

/// Policies that Kubernetes would refuse: they are told by name, admit nothing, and hinder no other.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct PolicyFaultTests {
    /// One of the plugin's faults.
    private struct Fault {
        let object: String
        let reason: String
    }

    private static let faults = [
        Fault(object: "NetworkPolicy/x/cidr", reason: "spec.ingress[0].from[0].ipBlock.cidr: \"10.42.0.0/33\""),
        Fault(object: "NetworkPolicy/x/except", reason: "spec.ingress[0].from[0].ipBlock.except[0]: 10.43.0.0/24"),
        Fault(object: "NetworkPolicy/x/ports", reason: "spec.ingress[0].ports[0].endPort: found 80"),
        Fault(object: "NetworkPolicy/y/peer", reason: "matchExpressions[0].operator: found \"Near\""),
        Fault(object: "NetworkPolicy/y/subject", reason: "matchExpressions[0].operator: found \"Near\""),
        Fault(object: "ClusterNetworkPolicy/tier", reason: "spec.tier: found \"Middle\""),
        Fault(object: "ClusterNetworkPolicy/action", reason: "spec.ingress[0].action: found \"Maybe\""),
        Fault(object: "ClusterNetworkPolicy/peers", reason: "spec.ingress[0].from: found 26 peers"),
    ]

    /// What the one large policy admits; its other peers are nobody's addresses.
    private static let blocks = 2_000

    private static var policies: PolicyCase {
        let strangers = (2..<blocks).map { "{ipBlock: {cidr: 198.18.\($0 / 250).\($0 % 250)/32}}" }
        let known = ["{ipBlock: {cidr: '@x/c4/32'}}", "{ipBlock: {cidr: '@y/b6/128'}}"]
        let many = (known + strangers).joined(separator: ", ")
        let peers = [String](repeating: "{namespaces: $x}", count: 26).joined(separator: ", ")
        func admin(_ name: String, _ tier: String, _ namespace: String, _ pod: String, _ rule: String) -> String {
            """
            \(name): {tier: \(tier), priority: 5, ingress: [\(rule)],
              subject: {pods: {namespaceSelector: $\(namespace), podSelector: $\(pod)}}}
            """
        }
        return PolicyCase(
            "faults",
            """
            x/cidr: {podSelector: $a, ingress: [{from: [{ipBlock: {cidr: 10.42.0.0/33}}]}]}
            x/except: {podSelector: $b, ingress: [{from: [{ipBlock: {cidr: 10.42.0.0/16, except: [10.43.0.0/24]}}]}]}
            x/ports: {podSelector: $b, ingress: [{ports: [{port: 81, endPort: 80}]}]}
            y/peer: {podSelector: $a, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: Near, values: [b]}]}}]}]}
            y/subject: {policyTypes: [Ingress], podSelector: {matchLabels: {pod: b},
              matchExpressions: [{key: role, operator: Near, values: [web]}]}}
            z/many: {podSelector: $a, ingress: [{from: [\(many)]}]}
            z/good: {podSelector: $c, ingress: [{from: [{podSelector: $b}], ports: [{port: 80}]}]}
            \(admin("tier", "Middle", "z", "b", "{action: Accept, from: [{namespaces: {}}]}"))
            \(admin("action", "Admin", "y", "c", "{action: Maybe, from: [{namespaces: $x}]}"))
            \(admin("peers", "Admin", "y", "c", "{action: Deny, from: [\(peers)]}"))
            """)
    }

    /// Counted by hand: the oracle is not asked about objects that no API server would take.
    private static func isAllowed(_ flow: PolicyFlow) -> Bool {
        if flow.source == flow.destination { return true }
        switch flow.destination {
        // No policy speaks of it.
        case "x/c": return true
        case "z/a":
            return (flow.source == "x/c" && flow.family == .v4) || (flow.source == "y/b" && flow.family == .v6)
        case "z/c": return flow.source == "z/b" && flow.port == 80 && flow.transport == .tcp
        default: return false
        }
    }

    @Test func badPoliciesAreToldByNameAndAdmitNothingAndOthersAreInForce() throws {
        try PolicyStage.with { stage in
            let world = try Self.policies.world(stage.world)
            let allowed = Set(PolicyFlow.all.filter { Self.isAllowed($0) })
            if let mismatch = try stage.mismatch(world, allowing: allowed) { Issue.record("\(mismatch)") }
            for node in stage.playground.nodeNames {
                var told: [String] = []
                func isTold(_ fault: Fault) -> Bool {
                    told.contains { $0.hasPrefix("\(fault.object): ") && $0.contains(fault.reason) }
                }
                // The kernel is first, then the report.
                try eventually(within: 4) {
                    let plugins = try stage.playground.status(of: node)["plugins"]?.array ?? []
                    told = plugins.flatMap { $0["faults"]?.array ?? [] }.compactMap { $0.string }
                    return Self.faults.allSatisfy { isTold($0) }
                }
                let missing = Self.faults.filter { !isTold($0) }.map { $0.object }
                #expect(missing == [], "\(node) tells \(told)")
                let others = told.filter { line in !Self.faults.contains { line.hasPrefix("\($0.object): ") } }
                #expect(others == [], "\(node)")
            }
            let good = try PolicyCase("good", "x/good: {podSelector: $a, ingress: [{from: [{podSelector: $b}]}]}")
                .world(stage.world)
            if let mismatch = try stage.mismatch(good) { Issue.record("\(mismatch)") }
            for node in stage.playground.nodeNames {
                try eventually(within: 4) {
                    let plugins = try stage.playground.status(of: node)["plugins"]?.array ?? []
                    return plugins.allSatisfy { ($0["faults"]?.array ?? []).isEmpty }
                }
            }
        }
    }
}
