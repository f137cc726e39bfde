import KnetCore
import KnetLinux

/// What the rules depend on beside the sets that they use.
public struct ServiceRules: Hashable, Sendable {
    /// This node's ranges of pods, sorted. Their first addresses, which no pod has, stand for the node where a pod would
    /// otherwise see itself as the sender.
    let ranges: [CIDR]
    /// Ranges of ClusterIPs, sorted: what is not given to a Service there leads nowhere.
    let serviceRanges: [CIDR]
    /// Whether refused packets are told.
    var tells = false
    /// Whether programs of `ebpf` lead clients outside to the same endpoints, from ports below those that are left to the rules.
    var isBesidePrograms = false
}

/// The table's text. All chains are of type nat: only the first packet of a connection
/// passes them. Why it is so: docs/decisions/0010-services-in-sets.md.
struct ServiceTable {
    static let plainName = "knetd_services"
    static let name = "inet \(plainName)"

    let rules: ServiceRules
    /// The sets that are there because some frontend needs them, sorted by name.
    let optional: [SetName]
    private var isListing = false

    init(_ rules: ServiceRules, optional: some Sequence<SetName>) {
        self.rules = rules
        self.optional = optional.sorted { "\($0)" < "\($1)" }
    }

    /// The text as `nft --terse list table` prints it.
    var listing: String {
        var listing = self
        listing.isListing = true
        return listing.text
    }

    private static let kinds: [(transport: Transport, family: IPFamily)] =
        IPFamily.allCases.flatMap { family in Transport.allCases.map { ($0, family) } }

    var text: String {
        let families = IPFamily.allCases.map(Self.familySets)
        let sets = Self.kinds.map { kind in Self.sets(kind.transport, kind.family, optional: optional(kind)) }
        return "table \(Self.name) {\n" + families.joined() + sets.joined() + hooks
            + Self.kinds.map { chains($0.transport, $0.family) }.joined(separator: "\n") + "}\n"
    }

    private func optional(_ kind: (transport: Transport, family: IPFamily)) -> [SetName] {
        optional.filter { $0.transport == kind.transport && $0.isIPv6 == (kind.family == .v6) }
    }

    // MARK: Sets

    private static func familySets(_ family: IPFamily) -> String {
        let n = family.rawValue
        return """
            \tset cluster_ips\(n) {
            \t\ttype ipv\(n)_addr
            \t}

            \tset hairpin\(n) {
            \t\ttype ipv\(n)_addr . ipv\(n)_addr
            \t}


            """
    }

    private static func sets(_ transport: Transport, _ family: IPFamily, optional: [SetName]) -> String {
        let n = family.rawValue
        let (ip, suffix) = (keyword(family), "\(transport.rawValue)\(n)")
        let endpoint = "\(ip) daddr . \(transport.rawValue) dport"
        let plain = SetRole.permanent.map { role in
            switch role {
            case .endpoints:
                return "\tmap \(role)_\(suffix) {\n"
                    + "\t\ttypeof \(endpoint) . numgen random mod 65536 : \(endpoint)\n\t}\n\n"
            case .sources:
                return "\tset \(role)_\(suffix) {\n\t\ttype ipv\(n)_addr . ipv\(n)_addr . inet_service\n"
                    + "\t\tflags interval\n\t}\n\n"
            default:
                return "\tset \(role)_\(suffix) {\n\t\ttype ipv\(n)_addr . inet_service\n\t}\n\n"
            }
        }
        let affinity =
            "\tmap affinity_\(suffix) {\n\t\ttype ipv\(n)_addr . ipv\(n)_addr . inet_service : ipv\(n)_addr . inet_service\n"
            + "\t\tsize \(affinityLimit)\n\t\tflags dynamic,timeout\n\t}\n\n"
        return plain.joined() + affinity
            + optional.map { "\tset \($0) {\n\t\ttype ipv\(n)_addr . inet_service\n\t}\n\n" }.joined()
    }

    /// Clients that are remembered, for each transport and family.
    private static let affinityLimit = 262_144

    // MARK: Chains

    private static func keyword(_ family: IPFamily) -> String { family == .v4 ? "ip" : "ip6" }

    private static func reject(_ family: IPFamily) -> String {
        "reject with \(family == .v4 ? "icmp" : "icmpv6") port-unreachable"
    }

    static let rememberChain = "remember"

    private static func chain(_ name: String, _ rules: [String]) -> String {
        "\tchain \(name) {\n" + rules.map { "\t\t\($0)\n" }.joined() + "\t}\n"
    }

    private var hooks: String {
        let own = rules.ranges.map { "\(Self.keyword($0.family)) saddr \($0) goto services" }
        let families = Self.kinds.map {
            (Self.frontend($0.transport, $0.family), "\($0.transport.rawValue)\($0.family.rawValue)")
        }
        let services = families.map { "\($0) @services_\($1) goto \($1)" }
        let external = families.map { "\($0) @external_\($1) goto external_\($1)" }
        // A reset reaches a client that is still in connect(2), which an ICMP error may not: the socket is locked then.
        let refused = IPFamily.allCases.flatMap { family in
            let isOurs = "\(Self.keyword(family)) daddr @cluster_ips\(family.rawValue)"
            return told(isOurs, .port) + [
                "\(isOurs) meta l4proto tcp reject with tcp reset", "\(isOurs) \(Self.reject(family))",
            ]
        }
        let unused = rules.serviceRanges.flatMap { range in
            ending("\(Self.keyword(range.family)) daddr \(range)", .service, "drop")
        }
        let chains = [
            Self.chain(
                "prerouting",
                ["type nat hook prerouting priority dstnat - 1; policy accept;"] + own + external + ["goto services"]),
            Self.chain("output", ["type nat hook output priority -101; policy accept;", "goto services"]),
            Self.chain("services", services + refused + unused),
            Self.chain(
                "postrouting",
                ["type nat hook postrouting priority srcnat - 1; policy accept;", "jump \(Self.rememberChain)"]
                    + masquerade
            ),
            Self.chain("input", ["type nat hook input priority 99; policy accept;", "jump \(Self.rememberChain)"]),
            Self.chain(Self.rememberChain, isListing ? remember : []),
        ]
        return chains.joined(separator: "\n") + "\n"
    }

    /// What becomes of packets that agree with the condition.
    private func ending(_ condition: String, _ reason: Refusal, _ verdict: String) -> [String] {
        told(condition, reason) + ["\(condition) \(verdict)"]
    }

    private func told(_ condition: String, _ reason: Refusal) -> [String] {
        rules.tells ? ["\(condition) \(reason.statement)"] : []
    }

    private static func frontend(_ transport: Transport, _ family: IPFamily) -> String {
        "\(keyword(family)) daddr . \(transport.rawValue) dport"
    }

    /// Records where a client was sent, once that is known. libnftables cannot write these rules for IPv6, so that they
    /// are made of expressions for both families.
    var rememberRules: [[RuleExpression]] {
        optional.compactMap { name in
            guard case .affine(let seconds) = name.role else { return nil }
            let isIPv6 = name.isIPv6
            // An address takes `size` registers; client, ClusterIP and port are the key, behind it are endpoint and port.
            let size: UInt32 = isIPv6 ? 4 : 1
            let value = 2 * size + 1
            return [
                // NFPROTO_IPV4 and NFPROTO_IPV6 of <linux/netfilter.h>.
                .isFamily(isIPv6 ? 10 : 2), .isTransport(name.transport.number),
                .originalDestination(isIPv6: isIPv6, to: size), .originalDestinationPort(to: 2 * size),
                .isElement(of: "\(name)", at: size),
                .networkHeader(offset: isIPv6 ? 8 : 12, length: 4 * size, to: 0),
                .networkHeader(offset: isIPv6 ? 24 : 16, length: 4 * size, to: value),
                .transportHeader(offset: 2, length: 2, to: value + size),
                .update(
                    map: "\(SetName(.affinity, name.transport, isIPv6: isIPv6))", key: 0, value: value,
                    milliseconds: UInt64(seconds) * 1000),
            ]
        }
    }

    /// The same as nft prints them.
    private var remember: [String] {
        optional.compactMap { name in
            guard case .affine(let seconds) = name.role else { return nil }
            let family: IPFamily = name.isIPv6 ? .v6 : .v4
            let ip = Self.keyword(family)
            let asked = "ct original \(ip) daddr . ct original proto-dst"
            let suffix = "\(name.transport.rawValue)\(family.rawValue)"
            return "\(asked) @\(name) update @affinity_\(suffix) "
                + "{ \(ip) saddr . \(asked) timeout \(Self.duration(seconds)) : \(Self.frontend(name.transport, family)) }"
        }
    }

    /// As nft prints a time: `1d2h3m4s`.
    static func duration(_ seconds: Int) -> String {
        let parts = [
            (seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"),
        ]
        return parts.filter { $0.0 > 0 }.map { "\($0.0)\($0.1)" }.joined()
    }

    /// Only where an answer would not come back this way by itself: to a pod that is sent to itself, and from elsewhere to
    /// another node's endpoint.
    private var masquerade: [String] {
        let hairpins = rules.ranges.map { range in
            let ip = Self.keyword(range.family)
            return "\(ip) saddr . \(ip) daddr @hairpin\(range.family.rawValue) snat \(ip) to \(range.base)"
        }
        let own = rules.ranges.flatMap { range in
            let ip = Self.keyword(range.family)
            return ["\(ip) saddr \(range) return", "\(ip) daddr \(range) return"]
        }
        let others = Self.kinds.map { transport, family in
            "meta l4proto \(transport.rawValue) ct original \(Self.keyword(family)) daddr . ct original proto-dst "
                + "@services_\(transport.rawValue)\(family.rawValue) masquerade \(Self.ports(rules.isBesidePrograms))fully-random"
        }
        return hairpins + own + others
    }

    /// The programs' are 1024 to 32,767: conntrack does not know what these have taken.
    static func ports(_ isBesidePrograms: Bool) -> String { isBesidePrograms ? "to :32768-65535 " : "" }

    private func chains(_ transport: Transport, _ family: IPFamily) -> String {
        let (ip, suffix) = (Self.keyword(family), "\(transport.rawValue)\(family.rawValue)")
        let frontend = Self.frontend(transport, family)
        let optional = optional((transport, family))
        let affine = optional.contains { if case .affine = $0.role { true } else { false } }
        let restricted = ending(
            "\(frontend) @restricted_\(suffix) \(ip) saddr . \(frontend) != @sources_\(suffix)", .source, "drop")
        let sticky = affine ? ["dnat \(ip) to \(ip) saddr . \(frontend) map @affinity_\(suffix)"] : []
        let reject = transport == .tcp ? "reject with tcp reset" : Self.reject(family)
        let views = View.allCases.map { view -> String in
            let balanced = optional.compactMap { name -> String? in
                guard case .balancer(view, _) = name.role else { return nil }
                return "\(frontend) @\(name) goto \(name)"
            }
            let none =
                (view == .cluster ? ending("\(frontend) @reject_\(suffix)", .endpoints, reject) : [])
                + ending("\(frontend) @\(SetRole.drop(view))_\(suffix)", .endpoints, "drop")
            return Self.chain("\(view.prefix)\(suffix)", restricted + sticky + balanced + none)
        }
        let balancers = optional.compactMap { name -> String? in
            guard case .balancer(let view, let balancer) = name.role else { return nil }
            return Self.chain("\(name)", Self.draws(balancer, view, transport, family))
        }
        return (views + balancers).joined(separator: "\n")
    }

    private static func draws(
        _ balancer: Balancer, _ view: View, _ transport: Transport, _ family: IPFamily
    ) -> [String] {
        let (ip, suffix) = (keyword(family), "\(transport.rawValue)\(family.rawValue)")
        func draw(_ slot: String) -> String {
            "dnat \(ip) to \(frontend(transport, family)) . \(slot) map @\(SetRole.endpoints(view))_\(suffix)"
        }
        let modulus = "mod \(balancer.size)"
        switch balancer.method {
        case .random:
            if balancer.size == 1 { return [draw("numgen random \(modulus)")] }
            // Fewer than half of the slots are empty, so that the last one is needed once in 1,024 times at most.
            return Array(repeating: draw("numgen random \(modulus)"), count: balancer.size == 2 ? 1 : 10)
                + (balancer.size == 2 ? [] : [draw("numgen random mod 1 offset \(balancer.size)")])
        case .source: return [draw("jhash \(ip) saddr \(modulus) seed 0x6b6e6574")]
        case .flow: return [draw("jhash \(ip) saddr . \(transport.rawValue) sport \(modulus) seed 0x6b6e6574")]
        }
    }
}
