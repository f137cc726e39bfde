import HashTreeCollections

/// The names that this node answers for itself. A value: those who answer hold one version of it, while the next is made from
/// it in proportion to what changed.
struct Zone: Sendable {
    /// What is known of one name.
    enum Node: Sendable {
        /// One part has it; its sets are at that place.
        case single(ZonePart, sets: Int)
        /// Several parts have it, as with the names between those with records.
        case shared(SharedName)
    }

    /// A name of several parts.
    final class SharedName: Sendable {
        /// How many parts have it.
        let parts: Int
        /// Those that have records there.
        let records: [(part: ZonePart, sets: Int)]

        init(parts: Int, records: [(part: ZonePart, sets: Int)]) {
            self.parts = parts
            self.records = records
        }
    }

    /// The domains for which a name that is not there does not exist.
    let domains: [DomainName]
    /// Whether the cluster's objects have been read. Before, only what is there is known.
    var isComplete = false
    /// Seconds since 1970 of the last change: the serial number.
    var serial: UInt32 = 1
    private var names: TreeDictionary<NameKey, Node> = [:]

    init(domains: [DomainName]) { self.domains = domains }

    var count: Int { names.count }

    func find(_ name: UnsafeRawBufferPointer) -> Node? { names[NameKey(sought: name)] }

    /// Where in the name its domain begins; `nil` where it is of none.
    func apex(of name: UnsafeRawBufferPointer) -> Int? {
        var best: Int?
        for domain in domains {
            if let start = name.start(ofSuffix: domain.wire), start < best ?? .max { best = start }
        }
        return best
    }

    mutating func insert(_ part: ZonePart) {
        for (key, sets) in part.names {
            let own = part.bytes[sets] == 0 ? [] : [(part: part, sets: sets)]
            switch names[key] {
            case nil: names[key] = .single(part, sets: sets)
            case .single(let other, let place)?:
                let others = other.bytes[place] == 0 ? [] : [(part: other, sets: place)]
                names[key] = .shared(SharedName(parts: 2, records: others + own))
            case .shared(let shared)?:
                names[key] = .shared(SharedName(parts: shared.parts + 1, records: shared.records + own))
            }
        }
    }

    mutating func remove(_ part: ZonePart) {
        for (key, _) in part.names {
            switch names[key] {
            case nil: break
            case .single?: names[key] = nil
            case .shared(let shared)? where shared.parts == 1: names[key] = nil
            case .shared(let shared)?:
                names[key] = .shared(
                    SharedName(parts: shared.parts - 1, records: shared.records.filter { $0.part !== part }))
            }
        }
    }
}

extension Zone.Node {
    /// Calls `body` with each set of records; of one type there may be several.
    func forEachSet(_ body: (RecordSlice) -> Void) {
        switch self {
        case .single(let part, let sets): part.forEachSet(at: sets, body)
        case .shared(let shared): for (part, sets) in shared.records { part.forEachSet(at: sets, body) }
        }
    }
}

extension UnsafeRawBufferPointer {
    /// Where a name's end that is `suffix` begins, on the border of a label; `nil` where it does not end so.
    func start(ofSuffix suffix: [UInt8]) -> Int? {
        guard count >= suffix.count else { return nil }
        let start = count - suffix.count
        var position = 0
        while position < start { position += Int(self[position]) + 1 }
        return position == start && self[start...].elementsEqual(suffix) ? start : nil
    }
}
