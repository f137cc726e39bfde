public import KnetCore
public import KnetLinux

/// One thing of the policies' table.
public enum PolicyEntry: KernelEntry {
    case counter(String)
    case set(SetDefinition)
    case chain(ChainDefinition)
    case element(SetName, SetMember)

    public enum ID: Hashable, Sendable {
        case counter(String)
        case set(String)
        case chain(String)
        case element(SetName, SetMember)
    }

    public var id: ID {
        switch self {
        case .counter(let name): .counter(name)
        case .set(let set): .set(set.name)
        case .chain(let chain): .chain(chain.name)
        case .element(let set, let member): .element(set, member.key)
        }
    }

    public var description: String {
        switch self {
        case .counter(let name): "counter \(name)"
        case .set(let set): "set \(set.name)"
        case .chain(let chain): "chain \(chain.name)"
        case .element(let set, let member): "\(member) of set \(set)"
        }
    }
}

/// The name of a set: `pods_1x2y3z_4`.
public struct SetName: Hashable, Sendable, CustomStringConvertible {
    enum Kind: String, CaseIterable, Sendable {
        /// Addresses of pods that a selector matches.
        case pods
        /// Intervals of addresses.
        case ranges
        /// Intervals of ports.
        case ports
        /// (address, transport, port) of pods that have a port of a name.
        case named
        /// Addresses that a domain name had, for a time.
        case domain
        /// (interface, address) of this node's pods.
        case sources
        /// (address, address) of this node's pods: what they send to themselves.
        case own
        /// All of this node's pods by interface: the chain for what they send.
        case senders
        /// The same for what they are sent.
        case targets
        /// Pods of this node behind interfaces of other plugins, by address: the chain for what they are sent.
        case receivers
    }

    let kind: Kind
    /// 0 where there is one only.
    let number: UInt64
    /// `nil` where keys have no address.
    let family: IPFamily?

    init(_ kind: Kind, _ number: UInt64 = 0, _ family: IPFamily? = nil) {
        self.kind = kind
        self.number = number
        self.family = family
    }

    init?(_ text: String) {
        var parts = text.split(separator: "_")
        guard !parts.isEmpty, let kind = Kind(rawValue: String(parts.removeFirst())) else { return nil }
        var family: IPFamily?
        if let last = parts.last, let version = UInt8(last), last.count == 1, kind.hasFamily {
            family = IPFamily(rawValue: version)
            parts.removeLast()
        }
        guard parts.count <= 1, let number = parts.first.map({ UInt64($0, radix: 36) }) ?? 0 else { return nil }
        self.init(kind, number, family)
        if description != text { return nil }
    }

    public var description: String {
        kind.rawValue + (number == 0 ? "" : "_" + String(number, radix: 36)) + (family.map { "_\($0.rawValue)" } ?? "")
    }

    /// How it is declared.
    func definition(comment: String = "") -> SetDefinition {
        let address = SetDefinition.Part.address(family ?? .v4)
        let key: [SetDefinition.Part] =
            switch kind {
            case .pods, .ranges, .domain, .receivers: [address]
            case .ports: [.transport, .port]
            case .named: [address, .transport, .port]
            case .sources: [.interface, address]
            case .own: [address, address]
            case .senders, .targets: [.interface]
            }
        var set = SetDefinition(description, key)
        set.hasIntervals = kind == .ranges || kind == .ports
        set.hasTimeouts = kind == .domain
        set.isVerdictMap = [.senders, .targets, .receivers].contains(kind)
        set.comment = comment
        return set
    }
}

extension SetName.Kind {
    fileprivate var hasFamily: Bool { ![.ports, .senders, .targets].contains(self) }
}

/// An element of a set.
public enum SetMember: Hashable, Sendable, CustomStringConvertible {
    case address(IPAddress)
    /// Where an interval begins, or the first address behind it.
    case edge(IPAddress, isEnd: Bool)
    case ports(PortRange)
    case port(IPAddress, transport: UInt8, UInt16)
    case source(interface: String, IPAddress)
    case own(IPAddress)
    case sender(interface: String, chain: String)
    case target(interface: String, chain: String)
    case receiver(IPAddress, chain: String)
    /// What is not ours.
    case unknown([UInt8], isEnd: Bool)

    /// From the first to the last port of a transport.
    public struct PortRange: Hashable, Sendable {
        let span: PortSpan
    }

    /// In the place of a chain, for pods for which no policy holds.
    static let accept = "accept"

    /// Without what it leads to.
    var key: SetMember {
        switch self {
        case .sender(let interface, _): .sender(interface: interface, chain: "")
        case .target(let interface, _): .target(interface: interface, chain: "")
        case .receiver(let address, _): .receiver(address, chain: "")
        default: self
        }
    }

    public var description: String {
        switch self {
        case .address(let address), .edge(let address, _), .own(let address): "\(address)"
        case .ports(let range): "\(range.span)"
        case .port(let address, let transport, let port): "\(address) . \(transport) . \(port)"
        case .source(let interface, let address): "\(interface) . \(address)"
        case .sender(let interface, let chain), .target(let interface, let chain): "\(interface) : \(chain)"
        case .receiver(let address, let chain): "\(address) : \(chain)"
        case .unknown(let key, _): "\(key)"
        }
    }
}
