import KnetCore

/// A pool with what is known of its free addresses.
struct AddressPool {
    let settings: LoadBalancer.Settings.Pool
    private let namespaceMatcher: LabelMatcher?
    private let serviceMatcher: LabelMatcher?
    /// Below these, nothing is free.
    private var lowest: [IPFamily: IPAddress] = [:]

    init(_ settings: LoadBalancer.Settings.Pool) {
        self.settings = settings
        namespaceMatcher = settings.namespaceSelector.map { LabelMatcher($0) }
        serviceMatcher = settings.serviceSelector.map { LabelMatcher($0) }
    }

    var name: String { settings.name }

    /// Whether only some Services may have its addresses.
    var isPinned: Bool { !settings.namespaces.isEmpty || namespaceMatcher != nil || serviceMatcher != nil }

    /// Pools are tried in this order, and then in that of the file.
    var rank: (Int, Int) { (isPinned ? 0 : 1, settings.priority == 0 ? Int.max : settings.priority) }

    func contains(_ address: IPAddress) -> Bool {
        settings.addresses.contains { $0.contains(address) } && !isAvoided(address)
    }

    func hasFamily(_ family: IPFamily) -> Bool { settings.addresses.contains { $0.family == family } }

    /// How many addresses of the family it has.
    func count(_ family: IPFamily) -> Int {
        settings.addresses.filter { $0.family == family }.reduce(0) { count, span in
            let (sum, isMore) = count.addingReportingOverflow(span.count - avoided(in: span))
            return isMore ? Int.max : sum
        }
    }

    /// - Parameter namespaceLabels: of the Service's namespace.
    func admits(_ request: AddressRequest, namespaceLabels: [String: String]) -> Bool {
        let isOfNamespace =
            settings.namespaces.isEmpty && namespaceMatcher == nil
            || settings.namespaces.contains(request.key.namespace)
            || namespaceMatcher?.matches(namespaceLabels) == true
        return isOfNamespace && serviceMatcher?.matches(request.labels) ?? true
    }

    /// The lowest address that nobody has.
    mutating func free(_ family: IPFamily, isTaken: (IPAddress) -> Bool) -> IPAddress? {
        let spans = settings.addresses.filter { $0.family == family }.sorted { $0.first < $1.first }
        for span in spans {
            var address = max(span.first, lowest[family] ?? span.first)
            while address <= span.last {
                if !isAvoided(address), !isTaken(address) {
                    lowest[family] = address
                    return address
                }
                guard address < span.last else { break }
                address = IPAddress(family, number: address.number + 1)
            }
        }
        lowest[family] = spans.last?.last
        return nil
    }

    mutating func released(_ address: IPAddress) {
        if let known = lowest[address.family], contains(address) { lowest[address.family] = min(known, address) }
    }

    private func isAvoided(_ address: IPAddress) -> Bool {
        guard settings.avoidBuggyIPs, case .v4(let number) = address else { return false }
        return number & 0xFF == 0 || number & 0xFF == 0xFF
    }

    private func avoided(in span: AddressSpan) -> Int {
        guard settings.avoidBuggyIPs, case (.v4(let first), .v4(let last)) = (span.first, span.last) else { return 0 }
        // Of the numbers below n, so many end with 0, and so many with 255.
        func below(_ number: Int) -> Int { (number + 255) / 256 + number / 256 }
        return below(Int(last) + 1) - below(Int(first))
    }
}
