import Glibc
import KnetCore
public import KnetLinux

/// Reads and writes the policies' table.
public final class PolicyKernel: Sendable {
    let elements: SetElements
    private let nftables: Nftables

    public init(nftables: Nftables, pool: NetlinkPool) throws {
        self.nftables = nftables
        elements = try SetElements(table: PolicyTable.plainName)
        pool.adopt(port: elements.portID)
    }

    /// The table's name, without its family.
    public static let table = PolicyTable.plainName

    /// Removes the table; that there is none is no error.
    public static func remove(_ nftables: Nftables) throws {
        guard try nftables.list(table: PolicyTable.name) != nil else { return }
        try nftables.run("delete table \(PolicyTable.name)")
    }

    func read() throws -> [PolicyEntry] {
        guard let contents = try elements.contents() else { return [] }
        var entries = contents.counters.keys.map(PolicyEntry.counter) + contents.chains.map(PolicyEntry.chain)
        for set in contents.sets {
            entries.append(.set(set))
            // The kernel alone knows which of these are out of date.
            guard let name = SetName(set.name), name.kind != .domain else { continue }
            entries += try elements.read(set.name).map { .element(name, ElementForm.member($0, of: name)) }
        }
        return entries
    }

    /// Counters by name.
    func counters() -> [String: (packets: UInt64, bytes: UInt64)] {
        (try? elements.counters()).flatMap { $0 } ?? [:]
    }

    func apply(_ changes: KernelChanges<PolicyEntry>) -> KernelOutcome<PolicyEntry> {
        do {
            if Self.isInTheWay(changes) {
                try Self.remove(nftables)
                return KernelOutcome(mustReadBack: true)
            }
            try elements.change(Self.tableChanges(changes))
            try Self.forgetConnections(changes)
            return KernelOutcome()
        } catch {
            // Somebody else may have taken away what is changed here.
            let all = changes.add + changes.remove
            return KernelOutcome(
                failures: all.map { KernelFailure(entry: $0, reason: "\(error)") }, mustReadBack: true)
        }
    }

    /// Connections of a pod that went are not those of the next one with its address.
    private static func forgetConnections(_ changes: KernelChanges<PolicyEntry>) throws {
        let gone = changes.remove.compactMap { entry -> IPAddress? in
            if case .element(_, .own(let address)) = entry { address } else { nil }
        }
        if !gone.isEmpty { try Conntrack().forget(of: Set(gone)) }
    }

    /// A set of another form, or a chain at another place, cannot be changed into ours.
    private static func isInTheWay(_ changes: KernelChanges<PolicyEntry>) -> Bool {
        changes.add.contains { entry in
            switch (entry, changes.replaced[entry.id]) {
            case (.set, .set?): true
            case (.chain(let new), .chain(let old)?): new.hook != old.hook
            default: false
            }
        }
    }

    private static func tableChanges(_ changes: KernelChanges<PolicyEntry>) -> TableChanges {
        var table = TableChanges()
        for entry in changes.add {
            switch entry {
            case .counter(let name): table.counters.append(name)
            case .set(let set): table.sets.append(set)
            case .chain(let chain): table.chains.append(chain)
            case .element(let set, let member):
                if case .element(_, let old)? = changes.replaced[entry.id] {
                    table.elements.removed["\(set)", default: []].append(ElementForm.element(old))
                }
                table.elements.added["\(set)", default: []].append(ElementForm.element(member))
            }
        }
        for entry in changes.remove {
            switch entry {
            case .counter(let name): table.removedCounters.append(name)
            case .set(let set): table.removedSets.append(set.name)
            case .chain(let chain): table.removedChains.append(chain.name)
            case .element(let set, let member):
                table.elements.removed["\(set)", default: []].append(ElementForm.element(member))
            }
        }
        // Elements go with their sets.
        for set in table.removedSets { table.elements.removed[set] = nil }
        // The kernel takes an interval's end behind its beginning only.
        for set in table.elements.added.keys where set.hasPrefix(SetName.Kind.ranges.rawValue) {
            table.elements.added[set]?.sort { $0.key.lexicographicallyPrecedes($1.key) }
        }
        return table
    }
}
