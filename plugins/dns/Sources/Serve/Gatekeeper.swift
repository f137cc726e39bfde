import KnetCore

/// Who may ask, and how often. It belongs to one thread.
struct Gatekeeper {
    /// Whose queries are answered; empty: everybody's.
    private let allowed: [CIDR]
    /// Queries a second that one client may ask; 0: as many as it likes.
    private let rate: Int
    /// A client's share, by a hash of its address: two that meet share it.
    private var shares: [(address: IPAddress, second: Int64, asked: Int)]

    private static let mostClients = 1_024

    init(allowed: [CIDR], rate: Int) {
        self.allowed = allowed
        self.rate = rate
        shares = rate > 0 ? Array(repeating: (.v4(0), 0, 0), count: Self.mostClients) : []
    }

    /// - Parameter now: milliseconds.
    mutating func refuses(_ client: IPAddress, now: Int64) -> Bool {
        if !allowed.isEmpty, !allowed.contains(where: { $0.contains(client) }) { return true }
        guard rate > 0 else { return false }
        let place = Int(truncatingIfNeeded: client.number ^ client.number >> 32 &* 0x9E37_79B9) & (Self.mostClients - 1)
        let second = now / 1_000
        if shares[place].address != client || shares[place].second != second { shares[place] = (client, second, 0) }
        shares[place].asked += 1
        return shares[place].asked > rate
    }
}
