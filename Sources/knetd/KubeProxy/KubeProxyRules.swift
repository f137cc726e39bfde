import KnetCore
import KnetLinux

/// Rules that a kube-proxy left behind, in whichever of its forms: they go on leading connections to endpoints that may be
/// gone (https://kubernetes.io/docs/reference/networking/virtual-ips/).
struct KubeProxyRules {
    /// The table of kube-proxy's nftables mode, in `ip` and `ip6`.
    private static let table = "kube-proxy"

    let nftables: Nftables

    /// Whether a chain of iptables is kube-proxy's. The kubelet's own stay: KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT.
    static func isOurs(_ chain: some StringProtocol) -> Bool {
        [
            "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-NODE-PORT", "KUBE-POSTROUTING",
            "KUBE-FORWARD",
            "KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY", "KUBE-MARK-MASQ", "KUBE-LOAD-BALANCER",
            "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
        ].contains { $0 == chain }
            || ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-"].contains {
                chain.hasPrefix($0)
            }
    }

    /// What there is, for people; nothing where no kube-proxy ran.
    func found() throws -> [String] {
        let present = try chains()
        let own = Set(present.filter { $0.table == Self.table }.map(\.family)).sorted().map {
            "the nftables table \($0) \(Self.table)"
        }
        let byTable = Dictionary(grouping: present.filter { Self.isOurs($0.name) }) { "\($0.family) \($0.table)" }
        return own
            + byTable.sorted { $0.key < $1.key }.map {
                "\($0.value.count) chains of iptables-nft in the table \($0.key)"
            }
            + LegacyTables.all.flatMap { tool in
                ((try? tool.tables()) ?? []).filter { !$0.chains.isEmpty }.map {
                    "\($0.chains.count) chains of \(tool.name) in the table \($0.name)"
                }
            }
    }

    /// Removes them; whatever else the same tables hold stays.
    /// - Returns: what was there.
    func remove() throws -> [String] {
        let found = try found()
        let present = try chains()
        let tables = Set(present.filter { $0.table == Self.table }.map { "\($0.family) \($0.table)" })
        var commands = tables.sorted().map { "delete table \($0)" }
        for (table, chains) in Dictionary(
            grouping: present.filter { Self.isOurs($0.name) }, by: { "\($0.family) \($0.table)" })
        {
            commands += try jumps(in: table)
            commands += chains.map { "flush chain \(table) \($0.name)" }
            commands += chains.map { "delete chain \(table) \($0.name)" }
        }
        if !commands.isEmpty { try nftables.run(commands.joined(separator: "\n") + "\n") }
        for tool in LegacyTables.all { try tool.remove() }
        return found
    }

    private struct Chain {
        let family: String
        let table: String
        let name: String
    }

    private func chains() throws -> [Chain] {
        try nftables.listing("chains").compactMap { entry in
            guard let chain = entry["chain"], let family = chain["family"]?.string, let table = chain["table"]?.string,
                let name = chain["name"]?.string
            else { return nil }
            return Chain(family: family, table: table, name: name)
        }
    }

    /// Commands that take the ways from other chains into kube-proxy's away.
    private func jumps(in table: String) throws -> [String] {
        try nftables.listing("table \(table)").compactMap { entry in
            guard let rule = entry["rule"], let chain = rule["chain"]?.string, !Self.isOurs(chain),
                let handle = rule["handle"]?.integer
            else { return nil }
            let targets = (rule["expr"]?.array ?? []).compactMap { ($0["jump"] ?? $0["goto"])?["target"]?.string }
            return targets.contains(where: Self.isOurs) ? "delete rule \(table) \(chain) handle \(handle)" : nil
        }
    }
}
