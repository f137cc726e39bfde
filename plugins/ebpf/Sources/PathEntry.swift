public import KnetCore

/// Where packets meet a program.
public enum PathRole: String, ObjectName {
    /// The node's end of a pod's link.
    case fromPod = "knet_from_pod"
    /// A device on which packets of other nodes' pods arrive.
    case fromNode = "knet_from_node"
    /// One on which packets from outside arrive, and perhaps those too.
    case fromOutside = "knet_from_outside"
}

/// What the daemon wants of the programs.
public struct PathSettings: Hashable, Sendable {
    /// Connections must be admitted by policies.
    var isPoliced = false
    /// They are told of.
    var isTold = false
    /// Services are balanced for clients outside,
    var isBalanced = false
    /// and other nodes answer them directly.
    var isDirect = false
    /// What this node asks other nodes' pods from: addresses that no pod has.
    var own: [IPFamily: IPAddress] = [:]
}

/// One thing that the path past the host's stack keeps in the kernel. Links go by name, as everywhere.
public enum PathEntry: KernelEntry {
    case settings(PathSettings)
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

    /// Which entries go first: no program does without what it needs, and answers of pods meet programs that are new before questions do.
    enum Turn: Int, Comparable {
        case settings
        case ways
        case pods
        case devices

        static func < (one: Self, other: Self) -> Bool { one.rawValue < other.rawValue }
    }

    var turn: Turn {
        switch self {
        case .settings: .settings
        case .endpoint, .node, .unknown: .ways
        case .program(.fromPod, _, _): .pods
        case .program: .devices
        }
    }

    public var description: String {
        switch self {
        case .settings(let settings): "\(settings)"
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
    /// Services for clients outside, and which endpoints they draw from.
    case outside = "knet_outside"
    case tables = "knet_tables"
    case translations = "knet_translated"
    case scratch = "knet_scratch"
}
