import KnetCore

/// What a set or map of the table is for. There is one of each kind for every transport and family.
enum SetRole: Hashable, Sendable, CustomStringConvertible {
    /// All frontends.
    case services
    /// Those that have other endpoints for clients outside.
    case external
    /// (address, port, slot) to endpoint.
    case endpoints(View)
    /// Frontends whose endpoints are chosen so.
    case balancer(View, Balancer)
    /// Frontends without endpoints.
    case reject
    /// Frontends whose endpoints are all on other nodes, where a policy wants them here.
    case drop(View)
    /// Frontends that admit only some clients.
    case restricted
    /// (client, address, port), intervals of clients.
    case sources
    /// Frontends that keep a client at its endpoint for so many seconds.
    case affine(Int)
    /// (client, address, port) to endpoint; the kernel fills it.
    case affinity

    var description: String {
        switch self {
        case .services: "services"
        case .external: "external"
        case .endpoints(let view): view.prefix + "endpoints"
        case .balancer(let view, let balancer): view.prefix + balancer.description
        case .reject: "reject"
        case .drop(let view): view.prefix + "drop"
        case .restricted: "restricted"
        case .sources: "sources"
        case .affine(let seconds): "affine_\(seconds)"
        case .affinity: "affinity"
        }
    }

    init?(_ text: some StringProtocol) {
        let fixed = Self.permanent + [.affinity]
        if let role = fixed.first(where: { $0.description == text }) {
            self = role
        } else if let seconds = text.split(separator: "_").last, text == "affine_\(seconds)", let number = Int(seconds)
        {
            self = .affine(number)
        } else if let balancer = Balancer(text) {
            self = .balancer(.cluster, balancer)
        } else if text.hasPrefix(View.external.prefix),
            let balancer = Balancer(text.dropFirst(View.external.prefix.count))
        {
            self = .balancer(.external, balancer)
        } else {
            return nil
        }
    }

    /// The sets that are always there; the others come with the first frontend that needs them.
    static let permanent: [SetRole] = [
        .services, .external, .endpoints(.cluster), .endpoints(.external), .reject, .drop(.cluster), .drop(.external),
        .restricted, .sources,
    ]

    /// Whether the set comes and goes with its use.
    var isOptional: Bool {
        switch self {
        case .balancer, .affine: true
        default: false
        }
    }
}

/// A set's name: `random_16_tcp4`.
struct SetName: Hashable, Sendable, CustomStringConvertible {
    let role: SetRole
    let transport: Transport
    let isIPv6: Bool

    init(_ role: SetRole, _ transport: Transport, isIPv6: Bool) {
        self.role = role
        self.transport = transport
        self.isIPv6 = isIPv6
    }

    init?(_ text: some StringProtocol) {
        guard let underscore = text.lastIndex(of: "_"), let role = SetRole(text[..<underscore]) else { return nil }
        let tail = text[text.index(after: underscore)...]
        guard let transport = Transport(rawValue: String(tail.dropLast())), let version = tail.last,
            "46".contains(version)
        else { return nil }
        self.init(role, transport, isIPv6: version == "6")
    }

    var description: String { "\(role)_\(transport.rawValue)\(isIPv6 ? 6 : 4)" }
}
