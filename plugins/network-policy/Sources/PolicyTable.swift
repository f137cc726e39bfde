import KnetCore
import KnetLinux

/// The table's chains, and the rules that policies become. How they hang together: plugins/network-policy/README.md.
struct PolicyTable {
    static let plainName = "knetd_policy"
    static let name = "inet \(plainName)"

    /// Whether connections that are under way are let go on.
    let keepsConnections: Bool
    /// Whether packets of pods must come from their own addresses.
    let checksSources: Bool
    let log: DropLog

    /// What of the packets that are dropped is told.
    struct DropLog: Hashable {
        /// Of nfnetlink_log.
        let group: UInt16
        /// Packets a second, of each chain that drops; 0: none.
        let perSecond: Int

        /// Bytes of a packet: headers.
        fileprivate static let bytes: UInt32 = 128
    }

    // MARK: Hooks

    /// Before other filters, which have priority 0: what is dropped here is no business of theirs.
    private static let egressPriority: Int32 = -20
    private static let ingressPriority: Int32 = -10

    static let unknownChain = "unknown"
    static let spoofed = "spoofed"
    private static let fromPod = "from_pod"
    /// Devices of ours whose names begin like those of pods' links, in which there is no dot.
    private static let tunnels = ["knetd.", "knetd6."]

    /// What is always there, whatever policies there are.
    var fixed: [PolicyEntry] {
        let families = IPFamily.allCases
        let sets =
            [SetName(.senders), SetName(.targets)]
            + families.flatMap { family in
                [SetName.Kind.receivers, .sources, .own].map { SetName($0, 0, family) }
            }
        let isToItself = families.map { family in
            RuleDefinition(
                [
                    .isFamily(family), .address(family, isSource: true, to: 0),
                    .address(family, isSource: false, to: Self.registers(family)),
                    .isElement(of: "\(SetName(.own, 0, family))", at: 0), .verdict(.accept),
                ], for: "a pod to itself")
        }
        let isSpoofed = families.map { family in
            RuleDefinition(
                [
                    .isFamily(family), .interface(to: 0), .address(family, isSource: true, to: 4),
                    .isNoElement(of: "\(SetName(.sources, 0, family))", at: 0), .count(Self.spoofed), .verdict(.drop),
                ], for: "an address that is not the pod's own")
        }
        let fromPods = RuleDefinition(
            [.isFrom(interfaces: Attachment.hostLinkPrefix), .verdict(.jump(Self.fromPod))], for: "what pods send")
        let chains = [
            ChainDefinition(
                "forward_egress", hook: ChainHook(.forward, priority: Self.egressPriority),
                underWay + [fromPods]),
            ChainDefinition(
                "input_egress", hook: ChainHook(.input, priority: Self.egressPriority),
                underWay + [Self.neighbourDiscovery, fromPods]),
            ChainDefinition(
                Self.fromPod,
                Self.tunnels.map {
                    RuleDefinition([.isFrom(interfaces: $0), .verdict(.return)], for: "what other nodes send")
                }
                    + (checksSources ? isSpoofed : []) + isToItself + [
                        RuleDefinition(
                            [.interface(to: 0), .lookUpVerdict(map: "\(SetName(.senders))", at: 0)],
                            for: "the sender's policies"),
                        // One that is not there any more, or not yet.
                        RuleDefinition([.verdict(.goto(Self.unknownChain))], for: "no pod of this node"),
                    ]),
            ChainDefinition(
                "forward_ingress", hook: ChainHook(.forward, priority: Self.ingressPriority),
                underWay + isToItself
                    + [
                        RuleDefinition(
                            [.leaving(to: 0), .lookUpVerdict(map: "\(SetName(.targets))", at: 0)],
                            for: "the receiver's policies")
                    ]
                    + families.map { family in
                        RuleDefinition(
                            [
                                .isFamily(family), .address(family, isSource: false, to: 0),
                                .lookUpVerdict(map: "\(SetName(.receivers, 0, family))", at: 0),
                            ], for: "the receiver's policies")
                    }
                    + Self.toNobody),
            ChainDefinition(Self.unknownChain, denial(Self.unknownChain, "a pod that is not known")),
        ]
        return sets.map { .set($0.definition()) }
            + [.counter(Self.unknownChain), .counter(Self.spoofed)] + chains.map(PolicyEntry.chain)
    }

    /// A pod that is not there any more, or not yet.
    private static let toNobody =
        tunnels.map { RuleDefinition([.isTo(interfaces: $0), .verdict(.accept)], for: "to other nodes") }
        + [
            RuleDefinition(
                [.isTo(interfaces: Attachment.hostLinkPrefix), .verdict(.goto(unknownChain))],
                for: "no pod of this node")
        ]

    /// Replies, and errors that belong to connections, always go through.
    private var underWay: [RuleDefinition] {
        keepsConnections
            ? [
                RuleDefinition(
                    [.isConnection(RuleExpression.established | RuleExpression.related), .verdict(.accept)],
                    for: "connections under way")
            ]
            : [
                RuleDefinition([.isReply, .verdict(.accept)], for: "replies"),
                RuleDefinition(
                    [.isConnection(RuleExpression.related), .verdict(.accept)], for: "errors of connections"),
            ]
    }

    /// Between a pod's end of its link and the node's: listeners and neighbours (RFC 2710, RFC 4861, RFC 9777). Echoes are not among them.
    private static let neighbourDiscovery = RuleDefinition(
        [
            .isTransport(58), .transportHeader(offset: 0, length: 1, to: 0), .isByte(130...143, at: 0),
            .verdict(.accept),
        ], for: "neighbour discovery")

    private static func registers(_ family: IPFamily) -> UInt32 { family == .v4 ? 1 : 4 }

    // MARK: Policies

    /// The name of a rule's counter.
    static func counter(_ policy: UInt64, _ direction: Direction, _ index: Int) -> String {
        "\(direction.rawValue)_\(text(policy))_\(index)"
    }

    static func chain(_ kind: String, _ number: UInt64, _ direction: Direction) -> String {
        "\(kind)_\(direction.rawValue)_\(text(number))"
    }

    private static func text(_ number: UInt64) -> String { String(number, radix: 36) }

    /// Sets, counters and chains on account of a policy. Tiers of ClusterNetworkPolicies are chains of those for whom they hold:
    /// their rules come one after the other, whichever policy has them.
    func entries(_ policy: Policy, _ numbers: KernelNumbers) -> [PolicyEntry] {
        guard let number = numbers[.policy(policy.key)] else { return [] }
        var entries: [PolicyEntry] = []
        for direction in Direction.allCases {
            guard let rules = policy.rules(direction) else { continue }
            var definitions: [RuleDefinition] = []
            for (index, rule) in rules.enumerated() {
                entries += sets(rule, numbers)
                entries.append(.counter(Self.counter(number, direction, index)))
                if rule.action == .deny {
                    let name = Self.counter(number, direction, index)
                    entries.append(.chain(ChainDefinition(name, denial(name, "\(policy.title) \(rule.title)"))))
                }
                definitions += self.rules(rule, index, of: policy, number, direction, numbers)
            }
            if policy.tier == .network {
                entries.append(.chain(ChainDefinition(Self.chain("policy", number, direction), definitions)))
            }
        }
        return entries
    }

    private func sets(_ rule: Policy.Rule, _ numbers: KernelNumbers) -> [PolicyEntry] {
        var entries: [PolicyEntry] = []
        func declare(_ kind: SetName.Kind, _ thing: KernelNumbers.Thing, _ comment: String) {
            guard let number = numbers[thing] else { return }
            for family in IPFamily.allCases {
                entries.append(.set(SetName(kind, number, family).definition(comment: comment)))
            }
        }
        for matcher in rule.peers.pods { declare(.pods, .pods(matcher), "\(matcher)") }
        for port in rule.ports.named { declare(.named, .port(port), "port \(port.name)") }
        for domain in rule.peers.domains { declare(.domain, .domain(domain), domain) }
        if let number = numbers[.ranges(rule.peers.ranges)] {
            declare(.ranges, .ranges(rule.peers.ranges), "")
            for span in rule.peers.ranges {
                let set = SetName(.ranges, number, span.first.family)
                entries.append(.element(set, .edge(span.first, isEnd: false)))
                let all = span.first.family == .v4 ? UInt128(UInt32.max) : .max
                if span.last.number < all {
                    entries.append(
                        .element(set, .edge(IPAddress(span.last.family, number: span.last.number + 1), isEnd: true)))
                }
            }
        }
        let spans = PortSpan.disjoint(rule.ports.spans)
        if let number = numbers[.ports(spans)] {
            let set = SetName(.ports, number)
            entries.append(.set(set.definition()))
            entries += spans.map { .element(set, .ports(.init(span: $0))) }
        }
        return entries
    }

    /// What a rule of a policy is in the kernel: one for each way in which a packet can agree with it.
    private func rules(
        _ rule: Policy.Rule, _ index: Int, of policy: Policy, _ number: UInt64, _ direction: Direction,
        _ numbers: KernelNumbers
    ) -> [RuleDefinition] {
        let counter = Self.counter(number, direction, index)
        let verdict: RuleVerdict =
            switch rule.action {
            case .accept: .accept
            case .pass: .return
            case .deny: .goto(counter)
            }
        // What is denied is counted where it is dropped.
        let end: [RuleExpression] = (rule.action == .deny ? [] : [.count(counter)]) + [.verdict(verdict)]
        let title = "\(policy.title) \(rule.title)"
        return peers(rule.peers, isSource: direction == .ingress, numbers).flatMap { peer in
            ports(rule.ports, peer.family, numbers).map { RuleDefinition(peer.match + $0 + end, for: title) }
        }
    }

    /// Families other than `nil` are tested for in the match.
    private func peers(
        _ peers: Peers, isSource: Bool, _ numbers: KernelNumbers
    ) -> [(family: IPFamily?, match: [RuleExpression])] {
        if peers.isAnyone { return [(nil, [])] }
        let sets: [(SetName.Kind, UInt64?)] =
            peers.pods.map { (.pods, numbers[.pods($0)]) } + peers.domains.map { (.domain, numbers[.domain($0)]) }
            + [(.ranges, numbers[.ranges(peers.ranges)])]
        return sets.compactMap { kind, number in number.map { (kind, $0) } }
            .sorted { ($0.0.rawValue, $0.1) < ($1.0.rawValue, $1.1) }
            .flatMap { kind, number in
                IPFamily.allCases.filter { family in
                    kind != .ranges || peers.ranges.contains { $0.first.family == family }
                }.map { family in
                    (
                        family,
                        [
                            .isFamily(family), .address(family, isSource: isSource, to: 0),
                            .isElement(of: "\(SetName(kind, number, family))", at: 0),
                        ]
                    )
                }
            }
    }

    private func ports(_ ports: Ports, _ family: IPFamily?, _ numbers: KernelNumbers) -> [[RuleExpression]] {
        if ports.isAny { return [[]] }
        var matches: [[RuleExpression]] = []
        if let number = numbers[.ports(PortSpan.disjoint(ports.spans))] {
            matches.append([
                .transport(to: 0), .transportHeader(offset: 2, length: 2, to: 1),
                .isElement(of: "\(SetName(.ports, number))", at: 0),
            ])
        }
        for number in ports.named.compactMap({ numbers[.port($0)] }).sorted() {
            for own in family.map({ [$0] }) ?? IPFamily.allCases {
                let size = Self.registers(own)
                matches.append(
                    (family == nil ? [.isFamily(own)] : []) + [
                        .address(own, isSource: false, to: 0), .transport(to: size),
                        .transportHeader(offset: 2, length: 2, to: size + 1),
                        .isElement(of: "\(SetName(.named, number, own))", at: 0),
                    ])
            }
        }
        return matches
    }

    // MARK: Pods

    /// The chain of all pods for which the same policies hold, with the chains of tiers that it needs.
    func entries(
        _ profile: PolicyIndex.Profile, _ direction: Direction, _ policies: [ObjectKey: Policy],
        _ numbers: KernelNumbers
    ) -> [PolicyEntry] {
        guard let name = Self.podChain(profile, direction, numbers) else { return [] }
        var entries: [PolicyEntry] = [.counter(name)]
        func tier(_ keys: [ObjectKey]) -> [RuleDefinition] {
            guard let number = numbers[.tier(direction, keys)] else { return [] }
            let chain = Self.chain("tier", number, direction)
            let rules = keys.flatMap { key -> [RuleDefinition] in
                guard let policy = policies[key], let number = numbers[.policy(key)] else { return [] }
                return (policy.rules(direction) ?? []).enumerated().flatMap { index, rule in
                    self.rules(rule, index, of: policy, number, direction, numbers)
                }
            }
            entries.append(.chain(ChainDefinition(chain, rules)))
            return [RuleDefinition([.verdict(.jump(chain))], for: keys.map(\.name).joined(separator: " "))]
        }
        let jumps = profile.network.compactMap { key in
            numbers[.policy(key)].map {
                RuleDefinition(
                    [.verdict(.jump(Self.chain("policy", $0, direction)))], for: "\(key.namespace)/\(key.name)")
            }
        }
        // A pod for which NetworkPolicies hold is admitted by one of them or not at all. A chain never ends without a verdict: who comes back
        // from one has met a chain that is only coming, and is dropped.
        let rest =
            profile.network.isEmpty
            ? tier(profile.baseline) + [RuleDefinition([.verdict(.accept)], for: "no rule speaks of it")]
            : jumps + denial(name, "no policy admits it")
        entries.append(.chain(ChainDefinition(name, tier(profile.admin) + rest)))
        return entries
    }

    /// `nil` where nothing holds.
    static func podChain(
        _ profile: PolicyIndex.Profile, _ direction: Direction, _ numbers: KernelNumbers
    ) -> String? {
        profile.isEmpty ? nil : numbers[.pod(direction, profile)].map { chain("pod", $0, direction) }
    }

    private func denial(_ name: String, _ reason: String) -> [RuleDefinition] {
        let told = RuleDefinition(
            [
                .limit(perSecond: UInt64(log.perSecond), burst: UInt32(log.perSecond)),
                .log(prefix: "\(DropRecord.prefix)\(name)", group: log.group, bytes: DropLog.bytes),
            ], for: reason)
        return (log.perSecond > 0 ? [told] : [])
            + [RuleDefinition([.count(name), .verdict(.drop)], for: reason)]
    }
}

/// What is told of a packet that was dropped.
enum DropRecord {
    /// Before the counter's name.
    static let prefix = "knetd "
}
