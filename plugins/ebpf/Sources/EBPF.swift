public import KnetCore
public import KnetDataplane
import OverlayPlugin
import RoutedPlugin

/// Pod traffic past the host's stack, between nodes by the transports of `overlay` and `routed`. What the stack sees of it, and
/// the way where the programs do not help, is the transport's; the programs themselves are `FastPath`.
public struct EBPF: Dataplane {
    /// `plugins.ebpf` in the configuration; the transport's settings are those of `overlay`.
    public struct Settings: Codable, Sendable, Equatable {
        public enum Transport: String, Codable, Sendable, CaseIterable { case vxlan, direct }

        public let transport: Transport
        public let endpoints: Int
        public let nodes: Int
        public let flows: Int
        public let verdicts: Int
        public let socketServices: Bool
        public let frontends: Int
        public let slots: Int
        public let peers: Int
        public let outsideServices: Bool
        public let directReturn: Bool
        public let translations: Int

        public init(
            transport: Transport = .vxlan, endpoints: Int = 2048, nodes: Int = 8192, flows: Int = 32_768,
            verdicts: Int = 16_384, socketServices: Bool = true, frontends: Int = 32_768, slots: Int = 131_072,
            peers: Int = 16_384, outsideServices: Bool = true, directReturn: Bool = false, translations: Int = 65_536
        ) {
            self.transport = transport
            self.endpoints = endpoints
            self.nodes = nodes
            self.flows = flows
            self.verdicts = verdicts
            self.socketServices = socketServices
            self.frontends = frontends
            self.slots = slots
            self.peers = peers
            self.outsideServices = outsideServices
            self.directReturn = directReturn
            self.translations = translations
        }
    }

    /// Over plain routes what another node sends on cannot be told from what a client sends.
    struct DirectReturnNeedsVXLAN: Error, CustomStringConvertible {
        let description =
            "plugins.ebpf.directReturn: true needs \"transport\": \"vxlan\" without \"directRouting\": true; set it to false, or take these"
    }

    private static let defaults = Settings()

    public static let settings = PluginSettings(
        name: "ebpf", isDataplane: true,
        fields: [
            Field(
                "transport", .text(.oneOf(Settings.Transport.allCases.map(\.rawValue))), default: "vxlan",
                "How packets get to other nodes: vxlan, as with `overlay`, or direct, as with `routed`."),
            Field(
                "endpoints", .integer(16...1_048_576), default: .integer(defaults.endpoints),
                "Addresses of this node's pods that there is room for; more go through the host's stack."),
            Field(
                "nodes", .integer(16...1_048_576), default: .integer(defaults.nodes),
                "Ranges of other nodes that there is room for; more go through the host's stack."),
            Field(
                "flows", .integer(1024...16_777_216), default: .integer(defaults.flows),
                "Connections past the host's stack that are remembered; the oldest are forgotten."),
            Field(
                "verdicts", .integer(1024...16_777_216), default: .integer(defaults.verdicts),
                "Answers of the policies that are remembered, of two pods and a port each; the oldest are asked for again."
            ),
            Field(
                "socketServices", .boolean, default: true,
                "Whether clients on this node are connected to a Service's endpoint at the socket, so that no packet is translated; needs `serviceProxy`."
            ),
            Field(
                "frontends", .integer(16...1_048_576), default: .integer(defaults.frontends),
                "Addresses with ports of Services that there is room for, at the socket and for clients outside; more are nftables' alone."
            ),
            Field(
                "slots", .integer(16...16_777_216), default: .integer(defaults.slots),
                "Endpoints behind them that there is room for, of each address with port."),
            Field(
                "peers", .integer(1024...16_777_216), default: .integer(defaults.peers),
                "Sockets of which is remembered what Service they asked for; the oldest are forgotten."),
            Field(
                "outsideServices", .boolean, default: true,
                "Whether clients outside are led to a Service's endpoints past the host's stack; needs `serviceProxy`."),
            Field(
                "directReturn", .boolean, default: false,
                "Whether the endpoint's node answers them, where the address is not one node's own. All nodes must have the same; needs the transport vxlan."
            ),
            Field(
                "translations", .integer(1024...16_777_216), default: .integer(defaults.translations),
                "Ways of their connections that are remembered, two for each; the oldest are forgotten."),
        ] + Overlay.settings.fields)

    public let name = Self.settings.name
    private let transport: any Dataplane
    public let configuration: Settings

    /// - Parameter settings: `plugins.ebpf`, every default filled in.
    public init(_ settings: JSONValue) throws {
        configuration = try settings.decode()
        if configuration.directReturn, configuration.transport == .direct || settings["directRouting"] == true {
            throw DirectReturnNeedsVXLAN()
        }
        transport =
            switch configuration.transport {
            case .vxlan: Overlay(try settings.decode())
            case .direct: Routed()
            }
    }

    public func entries(local: LocalNode) -> [NetworkEntry] { transport.entries(local: local) }

    public func entries(peer: Node, local: LocalNode) throws -> [NetworkEntry] {
        try transport.entries(peer: peer, local: local)
    }

    public func mtu(_ family: IPFamily, local: LocalNode) -> Int { transport.mtu(family, local: local) }

    public func nodeAnnotations(local: LocalNode) -> [String: String?] { transport.nodeAnnotations(local: local) }

    public var triesChecksumOffload: Bool { transport.triesChecksumOffload }

    public func checksumTrials(local: LocalNode, peers: [Node]) -> [ChecksumTrial] {
        transport.checksumTrials(local: local, peers: peers)
    }

    /// Devices of the transport itself.
    func ownDevices(local: LocalNode) -> Set<String> {
        Set(transport.entries(local: local).compactMap { if case .vxlan(let device) = $0 { device.name } else { nil } })
    }

    /// Devices by which a node's pods are reached.
    func devices(to peer: Node, local: LocalNode) -> Set<String> {
        let entries: [NetworkEntry]
        do {
            entries = try transport.entries(peer: peer, local: local)
        } catch {
            entries = (error as? PartlyDesired<NetworkEntry>)?.entries ?? []
        }
        return Set(entries.compactMap { if case .route(let route) = $0 { route.link } else { nil } })
    }
}
