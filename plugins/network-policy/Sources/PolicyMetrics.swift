import KnetCore

/// What rules decided, and what was dropped.
enum PolicyMetrics {
    static func measure(
        _ page: inout MetricsText, _ index: PolicyIndex, _ counters: [String: (packets: UInt64, bytes: UInt64)],
        drops: Int
    ) {
        page.family(
            "knetd_network_policies", "gauge", "Policies that are known, and those that hold for pods of this node.")
        let inUse = index.policies.keys.count { index.isInUse($0) }
        page.sample("knetd_network_policies", ["held": "known"], Double(index.policies.count))
        page.sample("knetd_network_policies", ["held": "here"], Double(inUse))
        page.family(
            "knetd_network_policy_packets_total", "counter",
            "First packets of connections that a rule decided; without a rule those that no policy of the pod admitted."
        )
        let origins = Origins(index)
        for (name, counter) in counters.sorted(by: { $0.key < $1.key }) {
            guard let origin = origins.known[name] else { continue }
            page.sample(
                "knetd_network_policy_packets_total",
                [
                    "policy": origin.policies.joined(separator: " "), "rule": origin.rule ?? "",
                    "direction": origin.direction.rawValue, "action": origin.action.rawValue,
                ], Double(counter.packets))
        }
        page.family(
            "knetd_network_policy_other_drops_total", "counter",
            "Packets of pods that are not known yet, and packets with an address that is not the pod's own.")
        for name in [PolicyTable.unknownChain, PolicyTable.spoofed] {
            page.sample(
                "knetd_network_policy_other_drops_total", ["reason": name], Double(counters[name]?.packets ?? 0))
        }
        page.family("knetd_network_policy_drops_told_total", "counter", "Dropped packets that the kernel told of.")
        page.sample("knetd_network_policy_drops_told_total", [:], Double(drops))
    }
}
