public import KnetCore

extension BGP {
    /// `plugins.bgp` in the configuration.
    public struct Settings: Codable, Sendable, Equatable {
        public struct Import: Codable, Sendable, Equatable {
            public let cidr: CIDR
            /// Shortest and longest prefix that is taken; `nil`: the CIDR's own, and a host's.
            public let ge: Int?
            public let le: Int?
        }

        public struct Liveness: Codable, Sendable, Equatable {
            /// Milliseconds.
            public let interval: Int
            public let multiplier: Int
        }

        /// One peer, or all in a range of addresses.
        public struct Peer: Codable, Sendable, Equatable {
            public let address: IPAddress?
            public let range: CIDR?
            public let `as`: Int
            public let port: Int
            public let families: [String]
            public let nodeSelector: LabelSelector?
            public let passwordFile: String?
            /// Routers between it and this node, plus one; 0: any.
            public let ttlSecurity: Int
            public let isPassive: Bool
            public let holdSeconds: Int
            public let connectSeconds: Int
            public let restartSeconds: Int
            public let bfd: Liveness?
            public let routeLimit: Int
            public let imports: [Import]?
            public let allowOwnAS: Int

            private enum CodingKeys: String, CodingKey {
                case address, range, `as`, port, families, nodeSelector, passwordFile, ttlSecurity
                case isPassive = "passive"
                case holdSeconds, connectSeconds, restartSeconds, bfd, routeLimit
                case imports = "import"
                case allowOwnAS
            }
        }

        public struct Aggregate: Codable, Sendable, Equatable {
            public let ipv4: Int
            public let ipv6: Int

            private enum CodingKeys: String, CodingKey {
                case ipv4 = "IPv4"
                case ipv6 = "IPv6"
            }
        }

        public struct Advertise: Codable, Sendable, Equatable {
            public let podRanges: Bool
            public let loadBalancers: Bool
            public let externalIPs: Bool
            public let clusterIPs: Bool
            /// Told as they are.
            public let ranges: [CIDR]
            /// Prefix lengths.
            public let aggregate: Aggregate
            public let communities: [String]
            public let localPreference: Int
            public let med: Int?
            public let prepend: Int
        }

        public struct Mesh: Codable, Sendable, Equatable {
            /// Nodes that reflect routes; `nil`: every node has a session with each other one.
            public let reflectors: LabelSelector?
            public let passwordFile: String?
            public let bfd: Liveness?
        }

        public let `as`: Int
        public let routerID: IPAddress?
        public let port: Int
        public let mesh: Mesh?
        public let peers: [Peer]
        public let advertise: Advertise
    }

    public static let settings = PluginSettings(
        name: "bgp", isDataplane: false, isDefault: false,
        fields: [
            Field("as", number, isRequired: true, "This cluster's AS number."),
            Field(
                "routerID", .text(.ipAddress),
                "The BGP identifier, as an IPv4 address; default: the node's IPv4 address, else one that follows from its name."
            ),
            Field("port", .integer(0...65535), default: 179, "Where peers may connect; 0: nowhere."),
            Field(
                "mesh",
                .object([
                    Field(
                        "reflectors", LabelSelector.shape,
                        "Nodes with these labels reflect the others' routes; default: each node has a session with each other one."
                    ),
                    Field("passwordFile", .text(.absolutePath), "File with the password of these sessions (TCP MD5)."),
                    Field("bfd", liveness, "Finds out by BFD that a node is gone."),
                ]), "Sessions between the nodes; without it there are none."),
            Field("peers", .list(of: .object(peerFields)), default: [], "Routers beside the nodes."),
            Field("advertise", .object(advertiseFields), default: [:], "What this node tells."),
        ],
        problems: { configuration, path in
            guard let settings = try? configuration.plugins["bgp"]?.decode(Settings.self) else { return [] }
            return settings.problems(path)
        })

    private static let number = Shape.integer(1...4_294_967_294)

    private static let liveness = Shape.object([
        Field("interval", .integer(10...60_000), default: 300, "Milliseconds between packets."),
        Field("multiplier", .integer(1...255), default: 3, "After so many that did not come the peer is gone."),
    ])

    private static let peerFields = [
        Field("address", .text(.ipAddress), "The router's address; or a range."),
        Field("range", .text(.cidr), "Any router there may connect (dynamic neighbours); this node does not."),
        Field("as", .integer(0...4_294_967_294), isRequired: true, "Its AS number; 0 in a range: any."),
        Field("port", .integer(1...65535), default: 179, "Its port."),
        Field(
            "families", .list(of: .text(.oneOf(["IPv4", "IPv6"])), atLeast: 1), default: ["IPv4", "IPv6"],
            "What routes are about; over either transport."),
        Field("nodeSelector", LabelSelector.shape, "Nodes with these labels have the session; default: all."),
        Field("passwordFile", .text(.absolutePath), "File with its password (TCP MD5, RFC 2385)."),
        Field(
            "ttlSecurity", .integer(0...254), default: 0,
            "It is at most so many hops away, a neighbour 1 (RFC 5082); 0: not looked at."),
        Field("passive", .boolean, default: false, "It connects, this node does not."),
        Field("holdSeconds", .integer(0...65535), default: 90, "After so long a silence it is gone; 0: never."),
        Field("connectSeconds", .integer(1...3600), default: 5, "Between two attempts to connect, at first."),
        Field(
            "restartSeconds", .integer(0...4095), default: 120,
            "So long routes are kept for a restart, its and ours (RFC 4724); 0: not at all."),
        Field("bfd", liveness, "Finds out by BFD that it is gone."),
        Field(
            "routeLimit", .integer(1...10_000_000), default: 10_000,
            "A peer that tells more usable routes is cut off for five minutes."),
        Field(
            "import",
            .list(
                of: .object([
                    Field("cidr", .text(.cidr), isRequired: true, "Prefixes within it."),
                    Field("ge", .integer(0...128), "Of this length at least; default: the CIDR's."),
                    Field("le", .integer(0...128), "Of this length at most; default: a host's."),
                ])), "What may be learnt from it; default: the pod network's ranges."),
        Field(
            "allowOwnAS", .integer(0...10), default: 0,
            "How often this cluster's AS may be in a path: 1 where nodes learn of each other through an external router."
        ),
    ]

    private static let advertiseFields = [
        Field("podRanges", .boolean, default: true, "This node's pod ranges."),
        Field(
            "loadBalancers", .boolean, default: true,
            "Addresses of LoadBalancer Services; with externalTrafficPolicy Local where endpoints are."),
        Field("externalIPs", .boolean, default: false, "The same of spec.externalIPs."),
        Field("clusterIPs", .boolean, default: false, "The same of ClusterIPs, by internalTrafficPolicy."),
        Field("ranges", .list(of: .text(.cidr)), default: [], "Prefixes that are told whatever the cluster has."),
        Field(
            "aggregate",
            .object([
                Field("IPv4", .integer(8...32), default: 32, "Prefix length."),
                Field("IPv6", .integer(16...128), default: 128, "Prefix length."),
            ]), default: [:], "Services' addresses are told as prefixes of these lengths."),
        Field(
            "communities",
            .list(
                of: .text(
                    .readable(what: "a community such as \"64512:100\" or \"64512:1:2\"") {
                        Communities([$0]) != nil
                    })), default: [], "Communities (RFC 1997) and large ones (RFC 8092)."),
        Field("localPreference", .integer(0...4_294_967_295), default: 100, "Towards peers of the same AS."),
        Field("med", .integer(0...4_294_967_295), "Towards other ASes."),
        Field("prepend", .integer(0...20), default: 0, "So many times more the own AS stands in paths."),
    ]
}

/// Communities of both sizes by their text.
struct Communities {
    var small: [Community] = []
    var large: [LargeCommunity] = []

    /// - Returns: `nil` where one is none.
    init?(_ texts: [String]) {
        for text in texts {
            let parts = text.split(separator: ":", omittingEmptySubsequences: false).map { UInt32($0) }
            switch (parts.count, parts.compactMap(\.self)) {
            case (2, let numbers) where numbers.count == 2 && numbers.allSatisfy { $0 <= 0xFFFF }:
                small.append(Community(number: numbers[0] << 16 | numbers[1]))
            case (3, let numbers) where numbers.count == 3:
                large.append(LargeCommunity(administrator: numbers[0], first: numbers[1], second: numbers[2]))
            default: return nil
            }
        }
    }
}

extension BGP.Settings {
    /// What contradicts itself.
    func problems(_ path: String) -> [ConfigurationProblem] {
        var problems: [ConfigurationProblem] = []
        var seen: Set<IPAddress> = []
        for (index, peer) in peers.enumerated() {
            let place = "\(path).peers[\(index)]"
            if (peer.address == nil) == (peer.range == nil) {
                problems.append(
                    .init(
                        path: place,
                        found: peer.address == nil ? "neither address nor range" : "both address and range",
                        allowed: "one of them"))
            }
            if let address = peer.address, !seen.insert(address).inserted {
                problems.append(
                    .init(
                        path: "\(place).address", found: "\(address), which another peer has too",
                        allowed: "an address of its own"))
            }
            if peer.address != nil, peer.as == 0 {
                problems.append(.init(path: "\(place).as", found: "0", allowed: "the peer's AS number"))
            }
            if [1, 2].contains(peer.holdSeconds) {
                problems.append(
                    .init(
                        path: "\(place).holdSeconds", found: "\(peer.holdSeconds)",
                        allowed: "0, or at least 3 (RFC 4271)",
                        suggestion: "3"))
            }
            for (number, filter) in (peer.imports ?? []).enumerated() {
                let (ge, le) = (filter.ge ?? filter.cidr.prefixLength, filter.le ?? filter.cidr.family.bits)
                if ge < filter.cidr.prefixLength || ge > le || le > filter.cidr.family.bits {
                    problems.append(
                        .init(
                            path: "\(place).import[\(number)]", found: "lengths from \(ge) to \(le)",
                            allowed: "lengths from \(filter.cidr.prefixLength) to \(filter.cidr.family.bits)"))
                }
            }
            problems += LabelMatcher(peer.nodeSelector).problems.map {
                .init(path: "\(place).nodeSelector", found: $0, allowed: "a label selector")
            }
        }
        if port == 0, mesh != nil {
            problems.append(
                .init(
                    path: "\(path).port", found: "0 with a mesh", allowed: "a port, where nodes connect to each other"))
        }
        if case .v6? = routerID {
            problems.append(
                .init(
                    path: "\(path).routerID", found: "an IPv6 address",
                    allowed: "an IPv4 address, as which it is written"))
        }
        return problems
    }
}
