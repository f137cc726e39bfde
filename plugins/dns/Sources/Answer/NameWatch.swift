import KnetCore

/// Tells of addresses whose names somebody wants to hear of. It belongs to one thread.
struct NameWatch {
    private let exchange: NameExchange
    private var version = 0
    private var exact: [DomainName: String] = [:]
    private var below: [DomainName: String] = [:]

    init(_ exchange: NameExchange) {
        self.exchange = exchange
        exchange.serve()
    }

    /// Looks at an answer before it is sent.
    /// - Parameter start: where its records begin.
    mutating func look(at answer: UnsafeRawBufferPointer, recordsFrom start: Int) {
        if exchange.version != version { readPatterns() }
        if exact.isEmpty && below.isEmpty || answer.short(6) == 0 { return }
        guard let records = ReplyRecord.all(answer, from: start)?.answers else { return }
        let addresses = records.compactMap { record -> IPAddress? in
            [RecordType.a, RecordType.aaaa].contains(record.type) ? IPAddress(bytes: record.data) : nil
        }
        if addresses.isEmpty { return }
        let patterns = Set(records.flatMap { matches($0.name) })
        if patterns.isEmpty { return }
        exchange.tell(Array(patterns), addresses, lifetime: records.map(\.ttl).min() ?? 0)
    }

    private mutating func readPatterns() {
        version = exchange.version
        (exact, below) = ([:], [:])
        for pattern in exchange.patterns {
            if pattern.hasPrefix("*.") {
                if let name = DomainName(pattern.dropFirst(2)) { below[name] = pattern }
            } else if let name = DomainName(pattern) {
                exact[name] = pattern
            }
        }
    }

    private func matches(_ written: DomainName) -> [String] {
        // Lengths of labels are less than letters.
        var name = DomainName(asWritten: written.wire.map(\.lowercased))
        var found = exact[name].map { [$0] } ?? []
        while name != .root {
            name = name.parent
            if let pattern = below[name] { found.append(pattern) }
        }
        return found
    }
}
