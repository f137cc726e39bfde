import KnetCore

/// The names of one object while they are gathered.
struct NameTable {
    private(set) var names: [DomainName: [RecordSet]] = [:]
    /// Seconds.
    let ttl: UInt32

    init(ttl: UInt32) { self.ttl = ttl }

    /// Adds records of `name`. The names between it and `domain` exist then as well (RFC 8020 §3.1).
    /// - Parameter domain: one that `name` is below of; `nil` where it stands for itself.
    mutating func add(_ sets: [RecordSet], at name: DomainName, below domain: DomainName?) {
        let sets = sets.filter { $0.count > 0 }
        if sets.isEmpty { return }
        names[name, default: []] += sets
        if let domain { connect(name, below: domain) }
    }

    /// Adds a name that has no records.
    mutating func addEmpty(_ name: DomainName, below domain: DomainName) {
        names[name, default: []] += []
        connect(name, below: domain)
    }

    private mutating func connect(_ name: DomainName, below domain: DomainName) {
        var parent = name.parent
        while parent.wire.count > domain.wire.count {
            names[parent, default: []] += []
            parent = parent.parent
        }
    }

    mutating func addAddresses(_ addresses: some Sequence<IPAddress>, at name: DomainName, below domain: DomainName?) {
        add(RecordSet.addresses(addresses, ttl: ttl), at: name, below: domain)
    }

    mutating func addPointer(from address: IPAddress, to name: DomainName) {
        add([.one(RecordType.ptr, name.wire, ttl: ttl)], at: DomainName(reverse: address), below: nil)
    }

    /// `nil` where there is none.
    var part: ZonePart? { names.isEmpty ? nil : ZonePart(names) }
}
