public import KnetCore

/// One thing that the module keeps in force: in the kernel, or in the memory that queries are answered from, which is
/// treated alike.
public enum DNSEntry: KernelEntry {
    /// The rules for packets to and from these addresses, sorted; `nil` where rules are in force that are not ours.
    case rules([IPAddress]?)
    /// An address at which queries are answered; one that is just there, from an earlier process, is not served.
    case address(IPAddress, isServed: Bool)
    /// The names on account of one object.
    case names(ObjectKey, Names)
    /// A pod of this node that may ask.
    case client(IPAddress, PodView)

    public enum ID: Hashable, Sendable {
        case rules
        case address(IPAddress)
        case names(ObjectKey)
        case client(IPAddress)
    }

    /// Names with their records.
    public struct Names: Hashable, Sendable {
        let part: ZonePart
    }

    /// What counts of a pod.
    public struct PodView: Hashable, Sendable {
        let client: Client
    }

    public var id: ID {
        switch self {
        case .rules: .rules
        case .address(let address, _): .address(address)
        case .names(let key, _): .names(key)
        case .client(let address, _): .client(address)
        }
    }

    public var description: String {
        switch self {
        case .rules: "table \(DNSRules.name)"
        case .address(let address, _): "DNS at \(address)"
        case .names(let key, _): "names of \(key)"
        case .client(let address, let view): "search of \(view.client.title) at \(address)"
        }
    }
}
