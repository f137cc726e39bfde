public import KnetCore

/// Where packets meet a program.
public enum PathRole: String, ObjectName {
    /// The node's end of a pod's link.
    case fromPod = "knet_from_pod"
    /// A device on which packets of other nodes' pods arrive.
    case fromNode = "knet_from_node"
}

/// One thing that the path past the host's stack keeps in the kernel. Links go by name, as everywhere.
public enum PathEntry: KernelEntry {
    /// - Parameters:
    ///   - policed: whether connections must be admitted by policies.
    ///   - told: whether connections are told of.
    case settings(policed: Bool, told: Bool)
    /// An address of a pod of this node.
    case endpoint(IPAddress, link: String, podMAC: MACAddress, hostMAC: MACAddress)
    /// Addresses of another node's pods.
    case node(CIDR)
    /// - Parameter isCurrent: whether it is the program of this build, with the maps that are in use.
    case program(PathRole, link: String, isCurrent: Bool)
    /// In one of the maps, and not of our making.
    case unknown(map: PathMap, key: [UInt8])

    public enum ID: Hashable, Sendable {
        case settings
        case endpoint(IPAddress)
        case node(CIDR)
        case program(link: String)
        case unknown(map: PathMap, key: [UInt8])
    }

    public var id: ID {
        switch self {
        case .settings: .settings
        case .endpoint(let address, _, _, _): .endpoint(address)
        case .node(let range): .node(range)
        case .program(_, let link, _): .program(link: link)
        case .unknown(let map, let key): .unknown(map: map, key: key)
        }
    }

    public var description: String {
        switch self {
        case .settings(let policed, let told): "settings: policed \(policed), told \(told)"
        case .endpoint(let address, let link, _, _): "endpoint \(address) behind \(link)"
        case .node(let range): "range \(range) of another node"
        case .program(let role, let link, _): "program \(role.rawValue) on \(link)"
        case .unknown(let map, let key): "\(key) of map \(map.rawValue)"
        }
    }
}

public enum PathMap: String, ObjectName {
    case endpoints = "knet_endpoints"
    case nodes = "knet_nodes"
    case counters = "knet_counters"
    case settings = "knet_settings"
    case flows = "knet_flows"
    case verdicts = "knet_verdicts"
    case events = "knet_events"
}
