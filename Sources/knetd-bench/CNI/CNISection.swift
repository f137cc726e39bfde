import KnetCore
import KnetLinux
import KnetPlayground

/// Times whole executions of CNI plugins, as a runtime waits for them. Namespaces are made outside of the timed part.
struct CNISection {
    static let knetd = "knetd"
    static let iptables = "bridge + host-local + portmap, iptables"
    static let nftables = "bridge + host-local + portmap, nftables"
    static let dualStack = "ptp + host-local"

    private let stage: Stage
    private let reference: ReferencePlugins

    init(_ stage: Stage) {
        self.stage = stage
        reference = ReferencePlugins(directory: stage.options.referencePlugins, state: stage.directory)
    }

    func measure() throws -> [Table] { try chains() + dualStack() }

    // MARK: Contenders

    private func chains() throws -> [Table] {
        let playground = try stage.playground(
            "knetd, IPv4, masquerade", nodes: 1, ["network": Stage.onlyFour])
        var turns = CNITurns(stage)
        let own = try knetd(playground, takesPorts: true)
        turns.enter(own)
        enter(reference.chain(backend: "iptables"), &turns) { _ in }
        enter(reference.chain(backend: "nftables"), &turns) { chain in
            try stage.withPods(1) { try ReferencePlugins.requireNftables(chain, pod: $0[0]) }
        }
        turns.enter(BareVeth(node: try NetworkNamespace.anonymous()))
        let pods = stage.options.pods
        try turns.oneByOne(rounds: pods)
        try turns.atOnce(
            stage.options.isQuick ? 3 : Self.crowd, rounds: stage.options.isQuick ? 1 : max(pods / Self.crowd, 1))
        let what = "with masquerade and one hostPort"
        let bases = [
            Table.Base(row: Self.iptables, label: "iptables"), Table.Base(row: Self.nftables, label: "nftables"),
        ]
        let remark = HostPortTrial.remark(own, playground, stage)
        return turns.tables(id: "cni", what, bases: bases, remark: remark)
    }

    private func dualStack() throws -> [Table] {
        let playground = try stage.playground(
            "knetd, dual stack", nodes: 1, ["network": ["masquerade": false]], families: IPFamily.allCases)
        var turns = CNITurns(stage)
        turns.enter(try knetd(playground, takesPorts: false))
        enter(reference.dualStack(), &turns) { _ in }
        // Duplicate address detection makes an ADD of the reference last 1.5 s: a few tell enough.
        try turns.oneByOne(rounds: stage.options.isQuick ? 1 : min(stage.options.pods, 10))
        return turns.tables(
            id: "cni.dual", "dual stack, without masquerade and hostPort",
            bases: [.init(row: Self.dualStack, label: "ptp")])
    }

    /// Attached at the same time.
    private static let crowd = 10

    private func knetd(_ playground: Playground, takesPorts: Bool) throws -> PluginChain {
        PluginChain(
            name: Self.knetd, node: try playground.namespace("node1"),
            plugins: [
                .init(
                    executable: playground.executable, configuration: playground.networkConfiguration("node1"),
                    takesPorts: takesPorts)
            ], path: stage.options.referencePlugins)
    }

    private func enter(
        _ candidate: ReferencePlugins.Candidate, _ turns: inout CNITurns, check: (PluginChain) throws -> Void
    ) {
        do {
            let chain = try candidate.contender.get()
            try check(chain)
            turns.enter(chain)
        } catch {
            turns.skip(candidate.name, "\(error)")
        }
    }
}
