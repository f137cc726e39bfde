import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// Measures TCP between pods of one node, and of two.
struct PathSection {
    static let routed = "knetd routed (conntrack, masquerade)"
    static let routedWithoutRules = "knetd routed, masquerade off"
    static let overlay = "knetd overlay (conntrack, masquerade)"
    static let ebpf = "knetd ebpf (VXLAN)"
    /// Nodes whose pods are measured. What a request takes depends on where in memory the kernel puts a node's programs, which it draws
    /// when they are loaded.
    private static let placesOfPrograms = 5

    private let stage: Stage
    /// Each path's turns in each kind of traffic.
    private let rounds: Int
    /// Of one turn.
    private let seconds: Double

    init(_ stage: Stage) {
        self.stage = stage
        rounds = stage.options.isQuick ? 1 : 10
        seconds = stage.options.seconds / Double(rounds)
    }

    func measure() throws -> [Table] {
        let yardstick = try Yardstick()
        var same = PathTurns(
            id: "path.same", place: "same node", base: .init(row: SameNode.bareVeth, label: "veth"),
            yardstick: yardstick)
        var cross = PathTurns(
            id: "path.cross", place: "two nodes", base: .init(row: CrossNode.direct, label: "direct"),
            yardstick: yardstick)
        try same.enter(SameNode.bareVeth) { try SameNode.veth() }
        try same.enter(SameNode.bridge) { try SameNode.bridge(callsIPHooks: false) }
        try same.enter(SameNode.bridgeWithHooks) { try SameNode.bridge(callsIPHooks: true) }
        try cross.enter(CrossNode.direct, CrossNode.directRoutes)
        try cross.enter(CrossNode.flannel, CrossNode.vxlan)
        for (name, plugin, masquerade) in [
            (Self.routed, "routed", true), (Self.routedWithoutRules, "routed", false), (Self.overlay, "overlay", true),
            (Self.ebpf, "ebpf", true),
        ] {
            do {
                let pods = try Pods(stage, plugin, masquerade: masquerade)
                try same.enter(name) { try pods.path(name, to: "near") }
                try cross.enter(name) { try pods.path(name, to: "far") }
            } catch let error as Progress.Interrupted {
                throw error
            } catch {
                same.fail(name, error)
                cross.fail(name, error)
            }
        }
        for _ in 1..<(stage.options.isQuick ? 2 : Self.placesOfPrograms) {
            try same.enter(Self.ebpf) {
                try Pods(stage, "ebpf", masquerade: true, nodes: 1).path(Self.ebpf, to: "near")
            }
        }
        try same.run(rounds: rounds, seconds: seconds)
        try cross.run(rounds: rounds, seconds: seconds)
        var service = PathTurns(
            id: "path.service", place: "same node, through a ClusterIP",
            base: .init(row: ServicePaths.direct, label: "the pod itself"), yardstick: yardstick)
        try ServicePaths(stage).enter(&service)
        try service.run(rounds: rounds, seconds: seconds)
        return same.tables + cross.tables + service.tables
    }

    /// Pods of knetd nodes: `client` and `near` on the first, `far` on the second where there is one.
    private struct Pods {
        let playground: Playground

        init(_ stage: Stage, _ plugin: String, masquerade: Bool, nodes: Int = 2) throws {
            let network = (Stage.onlyFour.object ?? [:]).merging(["masquerade": .boolean(masquerade)]) { $1 }
            playground = try stage.playground(
                "knetd \(plugin)", nodes: nodes, ["network": .object(network), "plugins": [plugin: [:]]])
            for (pod, node) in [("client", "node1"), ("near", "node1"), ("far", "node2")].prefix(nodes + 1) {
                try playground.addPod(pod, node: node)
            }
        }

        func path(_ name: String, to pod: String) throws -> Path {
            guard let address = playground.addresses(of: pod).first(where: { $0.family == .v4 }) else {
                throw Playground.Failure("pod \(pod) has no IPv4 address")
            }
            return Path(
                name: name, client: try playground.namespace("client"), server: try playground.namespace(pod),
                address: address)
        }
    }
}
