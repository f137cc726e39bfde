public import KnetCore

/// Gives traffic that leaves the cluster the node's own address.
public enum MasqueradeTable {
    public static let name = "inet knetd_masquerade"

    /// The table for one node; `nil` where nothing is to be masqueraded.
    /// - Parameters:
    ///   - sources: this node's ranges of pods.
    ///   - network: the cluster's.
    public static func table(sources: [CIDR], network: Configuration.Network) -> NftablesTable? {
        guard network.masquerade, !sources.isEmpty else { return nil }
        let rules = sources.sorted().map { source in
            let multicast: CIDR =
                source.family == .v4
                ? CIDR(containing: .v4(0xE000_0000), prefixLength: 4)
                : CIDR(containing: .v6(UInt128(0xFF00) << 112), prefixLength: 8)
            let keep = disjoint(
                (network.podCIDRs + network.masqueradeExcept + [multicast]).filter { $0.family == source.family })
            let keyword = source.family == .v4 ? "ip" : "ip6"
            let list = keep.map(\.description).joined(separator: ", ")
            return "\t\t\(keyword) saddr \(source) \(keyword) daddr != { \(list) } masquerade fully-random\n"
        }
        let text =
            "table \(name) {\n\tchain postrouting {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
            + rules.joined() + "\t}\n}\n"
        return NftablesTable(name: name, text: text)
    }

    /// Sorted, without blocks that another one holds: nftables refuses intervals that overlap.
    private static func disjoint(_ blocks: [CIDR]) -> [CIDR] {
        Set(blocks).sorted().reduce(into: []) { kept, block in
            if kept.last?.contains(block) != true { kept.append(block) }
        }
    }
}
