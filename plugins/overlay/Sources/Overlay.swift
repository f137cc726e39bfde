public import KnetCore
public import KnetDataplane

/// Pod traffic between nodes in VXLAN, in Flannel's dialect: the same VNI, port, addresses and annotations, so that
/// knetd and Flannel nodes pass traffic in one cluster.
public struct Overlay: Dataplane {
    /// `plugins.overlay` in the configuration.
    public struct Settings: Codable, Sendable, Equatable {
        public let vni: UInt32
        public let port: UInt16
        public let directRouting: Bool
        public let checksumOffload: ChecksumOffload

        public init(
            vni: UInt32 = 1, port: UInt16 = 8472, directRouting: Bool = false, checksumOffload: ChecksumOffload = .auto
        ) {
            self.vni = vni
            self.port = port
            self.directRouting = directRouting
            self.checksumOffload = checksumOffload
        }
    }

    /// Who computes the checksums of what is inside VXLAN.
    public enum ChecksumOffload: String, Codable, Sendable, CaseIterable {
        /// The hardware, unless peers say that its checksums arrive wrong.
        case auto
        /// The hardware.
        case on
        /// The kernel.
        case off
    }

    public static let settings = PluginSettings(
        name: "overlay", isDataplane: true,
        fields: [
            Field("vni", .integer(1...16_777_215), default: 1, "VXLAN network identifier; the same on all nodes."),
            Field("port", .integer(1...65535), default: 8472, "UDP port; the same on all nodes."),
            Field(
                "directRouting", .boolean, default: false,
                "Whether peers on the same subnet are reached by plain routes instead of VXLAN."),
            Field(
                "checksumOffload", .text(.oneOf(ChecksumOffload.allCases.map(\.rawValue))), default: "auto",
                "Whether the hardware computes the checksums inside VXLAN; auto: unless they are found to arrive wrong."
            ),
        ])

    public let name = Self.settings.name
    private let configuration: Settings

    public init(_ configuration: Settings) { self.configuration = configuration }

    /// Bytes that VXLAN puts before a packet: Ethernet 14, VXLAN 8, UDP 8, and IPv4's 20 or IPv6's 40.
    private static let overhead: [IPFamily: Int] = [.v4: 50, .v6: 70]

    public func mtu(_ family: IPFamily, local: LocalNode) -> Int {
        guard let outer = outerFamily(for: family, local: local), let uplink = local.uplinks[outer] else { return 1450 }
        return uplink.mtu - (Self.overhead[outer] ?? 0)
    }

    public func entries(local: LocalNode) -> [NetworkEntry] {
        let devices = local.uplinks.values.sorted { $0.address < $1.address }.map { uplink -> NetworkEntry in
            let family = uplink.address.family
            var device = VXLANDevice(
                name: deviceName(family), mac: Self.derivedMAC(node: local.name, family),
                mtu: uplink.mtu - (Self.overhead[family] ?? 0), vni: configuration.vni, port: configuration.port,
                local: uplink.address, underlay: uplink.link)
            device.offloadsChecksums =
                switch configuration.checksumOffload {
                case .auto: !local.faultyOffloads.contains(device.name)
                case .on: true
                case .off: false
                }
            return .vxlan(device)
        }
        let addresses = local.podCIDRs.compactMap { range -> NetworkEntry? in
            outerFamily(for: range.family, local: local).map { outer in
                .address(link: deviceName(outer), address: range.base, prefixLength: range.family.bits)
            }
        }
        return devices + addresses
    }

    public var triesChecksumOffload: Bool { configuration.checksumOffload == .auto }

    /// A peer's VTEP address answers for its device.
    public func checksumTrials(local: LocalNode, peers: [Node]) -> [ChecksumTrial] {
        guard local.podCIDR(.v4) != nil else { return [] }
        return peers.compactMap { peer in
            let dialect = FlannelAnnotations(peer.metadata.annotations ?? [:])
            guard let range = peer.podCIDRs.first(where: { $0.family == .v4 }),
                let (outer, _) = try? way(to: peer, dialect, inner: .v4, local: local)
            else { return nil }
            return ChecksumTrial(device: deviceName(outer), target: range.base)
        }
    }

    public func nodeAnnotations(local: LocalNode) -> [String: String?] {
        let families = Set(local.podCIDRs.compactMap { outerFamily(for: $0.family, local: local) })
        let ways = families.compactMap { family in
            local.uplinks[family].map { uplink in
                let mac = Self.derivedMAC(node: local.name, family)
                return (family, (uplink.address, #"{"VNI":\#(configuration.vni),"VtepMAC":"\#(mac)"}"#))
            }
        }
        return FlannelBackend.annotations(type: "vxlan", ways: Dictionary(uniqueKeysWithValues: ways))
    }

    public func entries(peer: Node, local: LocalNode) throws -> [NetworkEntry] {
        let dialect = FlannelAnnotations(peer.metadata.annotations ?? [:])
        try dialect.check(vni: configuration.vni)
        var entries: [NetworkEntry] = []
        for range in peer.podCIDRs where local.podCIDR(range.family) != nil {
            let (outer, address) = try way(to: peer, dialect, inner: range.family, local: local)
            if configuration.directRouting, outer == range.family, let uplink = local.uplinks[outer],
                uplink.subnet.contains(address)
            {
                entries.append(.route(NetworkRoute(to: range, via: address, link: uplink.link)))
                continue
            }
            let link = deviceName(outer)
            let mac = dialect.vtepMAC(outer) ?? Self.derivedMAC(node: peer.metadata.name, outer)
            let forwarding = NetworkEntry.fdb(link: link, mac: mac, destination: address)
            if !entries.contains(forwarding) { entries.append(forwarding) }
            entries.append(.neighbour(link: link, address: range.base, mac: mac))
            entries.append(.route(NetworkRoute(to: range, via: range.base, link: link, onlink: true)))
        }
        return entries
    }

    /// The outer family and address by which a peer's pods of the inner family are reached: the same family where both
    /// nodes have it, else the other one.
    private func way(
        to peer: Node, _ dialect: FlannelAnnotations, inner: IPFamily, local: LocalNode
    ) throws -> (IPFamily, IPAddress) {
        let other: IPFamily = inner == .v4 ? .v6 : .v4
        for outer in [inner, other] where local.uplinks[outer] != nil {
            if let address = dialect.publicIP(outer) ?? peer.internalIP(outer) { return (outer, address) }
        }
        let own = local.uplinks.keys.sorted().map(\.description).joined(separator: " and ")
        throw UnreachablePeer(
            own.isEmpty
                ? "this node has no uplink; set node.uplink or give its Node an InternalIP that it has"
                : "the Node has no InternalIP of this node's \(own); add it to status.addresses")
    }

    private func outerFamily(for inner: IPFamily, local: LocalNode) -> IPFamily? {
        local.uplinks[inner] != nil ? inner : local.uplinks.keys.first
    }

    private func deviceName(_ outer: IPFamily) -> String {
        outer == .v4 ? "knetd.\(configuration.vni)" : "knetd6.\(configuration.vni)"
    }

    /// The MAC address of a node's VXLAN device, where no annotation tells another.
    static func derivedMAC(node: String, _ outer: IPFamily) -> MACAddress {
        MACAddress(derivedFrom: "vtep \(outer) \(node)")
    }
}
