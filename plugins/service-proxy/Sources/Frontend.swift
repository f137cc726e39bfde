public import KnetCore

typealias Transport = HostPort.Transport

/// Who asks: clients that traffic policies see as part of this node (its pods and itself), or everybody else.
enum View: UInt8, Hashable, Sendable, CaseIterable {
    case cluster
    /// Clients outside, where `externalTrafficPolicy: Local` gives them other endpoints.
    case external

    var prefix: String { self == .cluster ? "" : "external_" }
}

/// Where a connection goes.
struct Backend: Hashable, Sendable, Comparable, CustomStringConvertible {
    let address: IPAddress
    let port: UInt16

    var description: String { address.family == .v6 ? "[\(address)]:\(port)" : "\(address):\(port)" }

    static func < (a: Backend, b: Backend) -> Bool { (a.address, a.port) < (b.address, b.port) }
}

/// How one of the endpoints is chosen: by what, among how many slots.
struct Balancer: Hashable, Sendable, Comparable, CustomStringConvertible {
    enum Method: String, Hashable, Sendable, CaseIterable {
        case random
        /// By the client's address.
        case source
        /// By the client's address and port: the same on every node.
        case flow
    }

    let method: Method
    /// A power of two.
    let size: Int

    static func < (a: Balancer, b: Balancer) -> Bool { (a.method.rawValue, a.size) < (b.method.rawValue, b.size) }

    var description: String { "\(method.rawValue)_\(size)" }

    init(_ method: Method, _ size: Int) {
        self.method = method
        self.size = size
    }

    init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "_")
        guard parts.count == 2, let method = Method(rawValue: String(parts[0])), let size = Int(parts[1]) else {
            return nil
        }
        self.init(method, size)
    }
}

/// An address and port at which a Service is reached: a ClusterIP, a load balancer's address, an external address, or a node
/// port at an address of this node.
struct FrontendID: Hashable, Sendable, Comparable, CustomStringConvertible {
    let transport: Transport
    let address: IPAddress
    let port: UInt16

    var suffix: String { transport.rawValue + "\(address.family.rawValue)" }
    var description: String {
        "\(transport.rawValue.uppercased()) \(Backend(address: address, port: port))"
    }

    static func < (a: FrontendID, b: FrontendID) -> Bool {
        (a.address, a.port, a.transport.number) < (b.address, b.port, b.transport.number)
    }
}

/// One element of a set, without the frontend's own part of its key.
enum Fact: Hashable, Sendable, Comparable {
    /// The frontend is an element of the set.
    case member(SetRole)
    /// The endpoint behind a slot.
    case slot(View, UInt32, Backend)
    /// Clients that may use a load balancer's address.
    case source(CIDR)

    var role: SetRole {
        switch self {
        case .member(let role): role
        case .slot(let view, _, _): .endpoints(view)
        case .source: .sources
        }
    }

    private var rank: (Int, UInt8, UInt32) {
        switch self {
        case .member: (0, 0, 0)
        case .slot(let view, let slot, _): (1, view.rawValue, slot)
        case .source: (2, 0, 0)
        }
    }

    static func < (a: Fact, b: Fact) -> Bool {
        if a.rank != b.rank { return a.rank < b.rank }
        return switch (a, b) {
        case (.member(let a), .member(let b)): a.description < b.description
        case (.slot(_, _, let a), .slot(_, _, let b)): a < b
        case (.source(let a), .source(let b)): a < b
        default: false
        }
    }
}

/// What the kernel holds for one address and port.
struct Frontend: Hashable, Sendable {
    let id: FrontendID
    /// Sorted, each once.
    let facts: [Fact]

    init(id: FrontendID, facts: some Sequence<Fact>) {
        self.id = id
        self.facts = facts.sorted()
    }

    func backends(_ view: View) -> Set<Backend> {
        Set(facts.compactMap { if case .slot(view, _, let backend) = $0 { backend } else { nil } })
    }

    /// Of both views.
    var backends: Set<Backend> {
        Set(facts.compactMap { if case .slot(_, _, let backend) = $0 { backend } else { nil } })
    }

    /// Seconds of session affinity.
    var affinity: Int? {
        for case .member(.affine(let seconds)) in facts { return seconds }
        return nil
    }

    /// What `other` has and this one has not.
    func missing(from other: Frontend?) -> [Fact] {
        guard let other else { return [] }
        // Both are sorted.
        var result: [Fact] = []
        var index = 0
        for fact in other.facts {
            while index < facts.count, facts[index] < fact { index += 1 }
            if index >= facts.count || facts[index] != fact { result.append(fact) }
        }
        return result
    }
}

/// What the service proxy keeps in the kernel.
public enum ServiceEntry: KernelEntry {
    /// The table's rules; `nil` for others than ours.
    case rules(ServiceRules?)
    /// A ClusterIP: what no Service has a port for is refused there.
    case clusterIP(IPAddress)
    /// A pod of this node, which may be sent to itself by a Service.
    case hairpin(IPAddress)
    case frontend(FrontendEntry)

    /// A frontend, of which others know no more than its identity.
    public struct FrontendEntry: Hashable, Sendable {
        let frontend: Frontend
    }

    public enum ID: Hashable, Sendable {
        case rules
        case clusterIP(IPAddress)
        case hairpin(IPAddress)
        case frontend(transport: UInt8, address: IPAddress, port: UInt16)
    }

    static func frontend(_ frontend: Frontend) -> ServiceEntry { .frontend(FrontendEntry(frontend: frontend)) }

    public var id: ID {
        switch self {
        case .rules: .rules
        case .clusterIP(let address): .clusterIP(address)
        case .hairpin(let address): .hairpin(address)
        case .frontend(let entry):
            .frontend(
                transport: entry.frontend.id.transport.number, address: entry.frontend.id.address,
                port: entry.frontend.id.port)
        }
    }

    public var description: String {
        switch self {
        case .rules: "rules of the table \(ServiceTable.name)"
        case .clusterIP(let address): "ClusterIP \(address)"
        case .hairpin(let address): "way of \(address) to itself"
        case .frontend(let entry): "\(entry.frontend.id)"
        }
    }
}
