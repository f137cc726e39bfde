public import KnetCore

extension LoadBalancer {
    /// `plugins.loadBalancer` in the configuration.
    public struct Settings: Codable, Sendable, Equatable {
        /// Addresses, and whose they may be. Its fields are those of MetalLB's IPAddressPool
        /// (https://metallb.io/apis/#ipaddresspool).
        public struct Pool: Codable, Sendable, Equatable {
            public let name: String
            public let addresses: [AddressSpan]
            /// Whether a Service gets one that asks for none of it.
            public let autoAssign: Bool
            /// Leaves IPv4 addresses alone that end with .0 or .255: some routers and firewalls drop them.
            public let avoidBuggyIPs: Bool
            /// Pools with a lower number come first; those with 0 last.
            public let priority: Int
            /// Without these three everybody's.
            public let namespaces: [String]
            public let namespaceSelector: LabelSelector?
            public let serviceSelector: LabelSelector?

            public init(
                name: String, addresses: [AddressSpan], autoAssign: Bool = true, avoidBuggyIPs: Bool = false,
                priority: Int = 0, namespaces: [String] = [], namespaceSelector: LabelSelector? = nil,
                serviceSelector: LabelSelector? = nil
            ) {
                self.name = name
                self.addresses = addresses
                self.autoAssign = autoAssign
                self.avoidBuggyIPs = avoidBuggyIPs
                self.priority = priority
                self.namespaces = namespaces
                self.namespaceSelector = namespaceSelector
                self.serviceSelector = serviceSelector
            }
        }

        /// Which addresses are answered for by ARP and NDP, and by whom.
        public struct Layer2: Codable, Sendable, Equatable {
            /// []: towards the other nodes.
            public let interfaces: [String]
            /// Names; []: all.
            public let pools: [String]
            /// Nodes that may answer.
            public let nodeSelector: LabelSelector?
            /// Milliseconds between the packets by which nodes see that others live.
            public let interval: Int
            /// After so many of them that did not come a node is gone.
            public let multiplier: Int
        }

        public let pools: [Pool]
        /// `nil`: for none.
        public let layer2: Layer2?
        /// Services of this `loadBalancerClass` are served; "": those without one.
        public let loadBalancerClass: String

        public init(pools: [Pool], layer2: Layer2? = nil, loadBalancerClass: String = "") {
            self.pools = pools
            self.layer2 = layer2
            self.loadBalancerClass = loadBalancerClass
        }
    }

    public static let settings = PluginSettings(
        name: "loadBalancer", isDataplane: false, isDefault: false,
        fields: [
            Field(
                "pools", .list(of: .object(poolFields)), default: [],
                "Addresses for Services of type LoadBalancer, and whose they may be."),
            Field(
                "layer2", .object(layer2Fields),
                "Answers by ARP and NDP for the addresses, one node of all for each; without it nobody does."),
            Field(
                "loadBalancerClass", .either([.text(.oneOf([""])), .text(.any(what: "a class"))]), default: "",
                "Services of this spec.loadBalancerClass get addresses; \"\": those without one."),
        ],
        problems: { configuration, path in
            guard let settings = try? configuration.plugins["loadBalancer"]?.decode(Settings.self) else { return [] }
            return settings.problems(path, configuration)
        })

    private static let layer2Fields = [
        Field(
            "interfaces", .list(of: .text(.interfaceName)), default: [],
            "Where is answered; []: on the interface towards the other nodes."),
        Field(
            "pools", .list(of: .text(.any(what: "a pool's name"))), default: [], "Addresses of these pools; []: of all."
        ),
        Field("nodeSelector", LabelSelector.shape, "Nodes with these labels may answer; default: all."),
        Field(
            "interval", .integer(50...10_000), default: 300,
            "Milliseconds between the packets by which nodes see that others live (BFD)."),
        Field(
            "multiplier", .integer(2...50), default: 3, "After so many of them that did not come a node is gone."),
    ]

    private static let poolFields = [
        Field(
            "name", .text(.any(what: "a name")), isRequired: true,
            "What the annotation metallb.io/address-pool calls it."),
        Field(
            "addresses",
            .list(of: .text(.readable(what: AddressSpan.title) { AddressSpan($0) != nil }), atLeast: 1),
            isRequired: true, "CIDRs, ranges such as 192.0.2.10-192.0.2.50, or single addresses, of either family."),
        Field("autoAssign", .boolean, default: true, "Whether Services get one of it that do not ask for it."),
        Field(
            "avoidBuggyIPs", .boolean, default: false,
            "Leaves IPv4 addresses alone that end with .0 or .255, which some routers drop."),
        Field(
            "priority", .integer(0...1_000_000), default: 0, "Pools with a lower number come first, those with 0 last."),
        Field(
            "namespaces", .list(of: .text(.any(what: "a namespace's name"))), default: [],
            "Services of these namespaces may have them; []: of all that the selectors admit."),
        Field("namespaceSelector", LabelSelector.shape, "Or of namespaces with these labels."),
        Field("serviceSelector", LabelSelector.shape, "Services with these labels may have them; default: all."),
    ]

}

extension LoadBalancer.Settings {
    /// What contradicts itself, or the rest of the configuration.
    func problems(_ path: String, _ configuration: Configuration) -> [ConfigurationProblem] {
        var problems: [ConfigurationProblem] = []
        var names: Set<String> = []
        var seen: [(span: AddressSpan, pool: String)] = []
        let taken =
            configuration.network.podCIDRs.map { (AddressSpan($0), "the pod network \($0)") }
            + serviceRanges(configuration).map { (AddressSpan($0), "the Services' range \($0)") }
        for (number, pool) in pools.enumerated() {
            let place = "\(path).pools[\(number)]"
            if !names.insert(pool.name).inserted {
                problems.append(
                    .init(
                        path: "\(place).name", found: "\"\(pool.name)\", which another pool has too",
                        allowed: "a name of its own"))
            }
            for (index, span) in pool.addresses.enumerated() {
                var clash = seen.first { $0.span.overlaps(span) }.map { "\($0.span) of the pool \"\($0.pool)\"" }
                clash = clash ?? taken.first { $0.0.overlaps(span) }?.1
                if let clash {
                    problems.append(
                        .init(
                            path: "\(place).addresses[\(index)]", found: "\(span), which overlaps \(clash)",
                            allowed: "addresses that nothing else has"))
                }
                if let reason = Self.reserved(span) {
                    problems.append(
                        .init(
                            path: "\(place).addresses[\(index)]", found: "\(span), which overlaps \(reason)",
                            allowed: "addresses that clients can reach"))
                }
                seen.append((span, pool.name))
            }
            for (key, selector) in [
                ("namespaceSelector", pool.namespaceSelector), ("serviceSelector", pool.serviceSelector),
            ] {
                problems += LabelMatcher(selector).problems.map {
                    .init(path: "\(place).\(key)", found: $0, allowed: "a label selector")
                }
            }
        }
        for (index, name) in (layer2?.pools ?? []).enumerated() where !names.contains(name) {
            problems.append(
                .init(
                    path: "\(path).layer2.pools[\(index)]", found: "\"\(name)\"",
                    allowed: "a pool's name: \(names.sorted().joined(separator: ", "))",
                    suggestion: Spelling.nearest(to: name, among: Array(names)).map { "\"\($0)\"" }))
        }
        problems += LabelMatcher(layer2?.nodeSelector).problems.map {
            .init(path: "\(path).layer2.nodeSelector", found: $0, allowed: "a label selector")
        }
        return problems
    }

    private func serviceRanges(_ configuration: Configuration) -> [CIDR] {
        (configuration.plugins["serviceProxy"]?["serviceCIDRs"]?.array ?? []).compactMap {
            $0.string.flatMap { CIDR($0) }
        }
    }

    private static func reserved(_ span: AddressSpan) -> String? {
        CIDR.reserved.first { AddressSpan($0.block).overlaps(span) }.map { "\($0.block) (\($0.purpose))" }
    }
}
