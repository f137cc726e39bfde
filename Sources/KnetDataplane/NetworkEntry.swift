public import KnetCore
import KnetLinux

/// What a dataplane keeps in the kernel. Links go by name: a name outlives the device it belongs to.
public enum NetworkEntry: KernelEntry {
    case sysctl(name: String, value: String)
    case vxlan(VXLANDevice)
    case address(link: String, address: IPAddress, prefixLength: Int)
    case neighbour(link: String, address: IPAddress, mac: MACAddress)
    case fdb(link: String, mac: MACAddress, destination: IPAddress)
    case route(NetworkRoute)
    case table(NftablesTable)
    case element(NftablesElement)
    case podLink(PodLinkState)

    public enum ID: Hashable, Sendable {
        case sysctl(String)
        case link(String)
        case address(link: String, IPAddress)
        case neighbour(link: String, IPAddress)
        case fdb(link: String, MACAddress)
        case route(CIDR)
        case table(String)
        case element(set: String, key: String)
    }

    public var id: ID {
        switch self {
        case .sysctl(let name, _): .sysctl(name)
        case .vxlan(let device): .link(device.name)
        case .address(let link, let address, _): .address(link: link, address)
        case .neighbour(let link, let address, _): .neighbour(link: link, address)
        case .fdb(let link, let mac, _): .fdb(link: link, mac)
        case .route(let route): .route(route.destination)
        case .table(let table): .table(table.name)
        case .element(let element): .element(set: element.set, key: element.key)
        case .podLink(let state): .link(state.name)
        }
    }

    /// A sysctl may have been what it is before knetd came; a pod's link goes by DEL.
    public var isRemovable: Bool {
        switch self {
        case .sysctl, .podLink: false
        default: true
        }
    }

    public var description: String {
        switch self {
        case .sysctl(let name, let value): "sysctl \(name)=\(value)"
        case .vxlan(let device): "VXLAN device \(device.name)"
        case .address(let link, let address, let length): "address \(address)/\(length) on \(link)"
        case .neighbour(let link, let address, let mac): "neighbour \(address) at \(mac) on \(link)"
        case .fdb(let link, let mac, let destination): "FDB entry \(mac) to \(destination) on \(link)"
        case .route(let route): "route \(route)"
        case .table(let table): "nftables table \(table.name)"
        case .element(let element): "element \(element.text) of \(element.set)"
        case .podLink(let state): "state of \(state.name)"
        }
    }
}

/// A VXLAN device with its underlay by name.
public struct VXLANDevice: Hashable, Sendable {
    public var name: String
    public var mac: MACAddress
    /// Bytes.
    public var mtu: Int
    public var vni: UInt32
    public var port: UInt16
    public var local: IPAddress
    public var underlay: String
    public var learning = false
    public var isUp = true
    /// Whether the hardware beneath computes the checksums of what is inside.
    public var offloadsChecksums = true

    /// The mark on a VXLAN device of ours (`IFLA_IFALIAS`).
    public static let alias = "knetd overlay"

    public init(
        name: String, mac: MACAddress, mtu: Int, vni: UInt32, port: UInt16, local: IPAddress, underlay: String
    ) {
        self.name = name
        self.mac = mac
        self.mtu = mtu
        self.vni = vni
        self.port = port
        self.local = local
        self.underlay = underlay
    }

    /// Whether `other` differs only in what can be changed on a living device.
    func canBecome(_ other: VXLANDevice) -> Bool {
        var changed = self
        changed.mac = other.mac
        changed.mtu = other.mtu
        changed.isUp = other.isUp
        changed.offloadsChecksums = other.offloadsChecksums
        return changed == other
    }
}

/// A route of ours in the main table, with its link by name.
public struct NetworkRoute: Hashable, Sendable, CustomStringConvertible {
    public var destination: CIDR
    public var gateway: IPAddress?
    /// `nil`: the destination is unreachable, and senders are told.
    public var link: String?
    public var onlink: Bool

    public init(to destination: CIDR, via gateway: IPAddress? = nil, link: String?, onlink: Bool = false) {
        self.destination = destination
        self.gateway = gateway
        self.link = link
        self.onlink = onlink
    }

    public var description: String {
        guard let link else { return "unreachable \(destination)" }
        return "\(destination)" + (gateway.map { " via \($0)" } ?? "") + " dev \(link)" + (onlink ? " onlink" : "")
    }
}

/// What the reconciler sees to on the host's end of a pod's link, which ADD makes and DEL removes.
public struct PodLinkState: Hashable, Sendable {
    public let name: String
    public var isUp = true
    /// Whether packets from 127.0.0.0/8 may go to the pod, as they do for host ports
    /// (`route_localnet`, Documentation/networking/ip-sysctl.rst).
    public var routesLoopback: Bool

    public init(name: String, routesLoopback: Bool) {
        self.name = name
        self.routesLoopback = routesLoopback
    }
}

/// A whole nftables table without the elements of its sets, in the very form in which `nft --terse list table` prints it.
public struct NftablesTable: Hashable, Sendable {
    /// Family and name: `inet knetd_masquerade`.
    public let name: String
    public let text: String

    public init(name: String, text: String) {
        self.name = name
        self.text = text
    }
}

/// An element of a set or map of ours, in the form in which nft prints it with protocols as numbers.
public struct NftablesElement: Hashable, Sendable {
    /// Family, table and set: `inet knetd_hostports any4`.
    public let set: String
    /// `6 . 8080`
    public let key: String
    /// What a map has for the key.
    public let value: String?

    public init(set: String, key: String, value: String? = nil) {
        self.set = set
        self.key = key
        self.value = value
    }

    var text: String { key + (value.map { " : \($0)" } ?? "") }
}
