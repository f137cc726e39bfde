import KnetCore
import KnetLinux
import Synchronization

/// Queries to this node's server and its answers are not tracked: nothing about them needs remembering, and a full table of
/// connections must not keep names from being found. While the addresses are not here, because the server is not, packets
/// to them go the way of any Service.
final class DNSRules: Sendable {
    static let table = "knetd_dns"
    static let name = "inet \(table)"

    private let nftables: Nftables
    /// What was written last, and how this libnftables prints it.
    private let printed = Mutex<(addresses: [IPAddress], text: String)?>(nil)

    init(_ nftables: Nftables) { self.nftables = nftables }

    private static func text(_ addresses: [IPAddress]) -> String {
        let to = rules(addresses, "daddr", "dport").map { "\t\tfib daddr type local \($0)\n" }.joined()
        let from = rules(addresses, "saddr", "sport").map { "\t\t\($0)\n" }.joined()
        return """
            table \(name) {
            \tchain prerouting {
            \t\ttype filter hook prerouting priority raw; policy accept;
            \(to)\t}

            \tchain output {
            \t\ttype filter hook output priority raw; policy accept;
            \(to)\(from)\t}
            }

            """
    }

    private static func rules(_ addresses: [IPAddress], _ side: String, _ port: String) -> [String] {
        IPFamily.allCases.flatMap { family -> [String] in
            let own = addresses.filter { $0.family == family }
            if own.isEmpty { return [] }
            let list = own.count == 1 ? "\(own[0])" : "{ \(own.map(\.description).joined(separator: ", ")) }"
            return ["udp", "tcp"].map { "\(family == .v4 ? "ip" : "ip6") \(side) \(list) \($0) \(port) 53 notrack" }
        }
    }

    /// - Returns: whose rules are in force: `nil` for none; inside, `nil` for rules that are not as written.
    func read() throws -> [IPAddress]?? {
        guard let text = try nftables.list(table: Self.name) else { return nil }
        return .some(printed.withLock { $0?.text == text ? $0?.addresses : nil })
    }

    func write(_ addresses: [IPAddress]) throws {
        // Chains are emptied and filled in one transaction.
        try nftables.run("add table \(Self.name)\ndelete table \(Self.name)\n\(Self.text(addresses))")
        let text = try nftables.list(table: Self.name) ?? ""
        printed.withLock { $0 = (addresses, text) }
    }

    /// Removes the table; that there is none is no error.
    static func remove(_ nftables: Nftables) throws {
        guard try nftables.list(table: name) != nil else { return }
        try nftables.run("delete table \(name)")
    }
}
