import KnetCore

/// What was asked and answered. Counting allocates nothing.
struct QueryCounters: Sendable {
    /// The types that are told apart, as CoreDNS does; all others count as 0.
    static let types: [UInt16] = [0, 1, 2, 5, 6, 12, 15, 16, 28, 33, 35, 43, 46, 47, 48, 50, 65, 255]

    /// By family, transport and type.
    private var requests = [Int](repeating: 0, count: 4 * types.count)
    /// By response code.
    private(set) var responses = [Int](repeating: 0, count: 17)
    private(set) var hits = (success: 0, denial: 0)
    private(set) var misses = 0
    private(set) var prefetches = 0
    /// Of answers.
    private(set) var bytes = 0
    /// Seconds; the bounds are CoreDNS's (https://coredns.io/plugins/metrics/).
    private(set) var durations = Histogram(bounds: (0..<16).map { 0.00025 * Double(1 << $0) })

    private static func place(_ family: IPFamily, isDatagram: Bool) -> Int {
        types.count * ((family == .v4 ? 0 : 2) + (isDatagram ? 0 : 1))
    }

    /// How often each type was asked for.
    func requests(_ family: IPFamily, isDatagram: Bool) -> ArraySlice<Int> {
        requests[Self.place(family, isDatagram: isDatagram)...].prefix(Self.types.count)
    }

    /// - Parameter missed: whether another server had to be asked.
    mutating func add(
        _ facts: Resolver.Facts, _ family: IPFamily, isDatagram: Bool, bytes: Int, missed: Bool = false
    ) {
        let type = Self.types.firstIndex(of: facts.type) ?? 0
        requests[Self.place(family, isDatagram: isDatagram) + type] += 1
        responses[Int(facts.code.rawValue)] += 1
        switch facts.hit {
        case _ where missed: misses += 1
        case true?: hits.success += 1
        case false?: hits.denial += 1
        case nil: break
        }
        if facts.prefetch != nil { prefetches += 1 }
        self.bytes += bytes
    }

    mutating func observe(seconds: Double, count: Int) { durations.observe(seconds, count: count) }

    /// Takes in what was counted elsewhere, which begins again from nothing.
    mutating func take(_ other: inout QueryCounters) {
        for index in requests.indices { requests[index] += other.requests[index] }
        for index in responses.indices { responses[index] += other.responses[index] }
        hits.success += other.hits.success
        hits.denial += other.hits.denial
        misses += other.misses
        prefetches += other.prefetches
        bytes += other.bytes
        durations.add(other.durations)
        other.reset()
    }

    private mutating func reset() {
        for index in requests.indices { requests[index] = 0 }
        for index in responses.indices { responses[index] = 0 }
        (hits, misses, prefetches, bytes) = ((0, 0), 0, 0, 0)
        durations.reset()
    }
}
