import KnetCore
public import KnetLinux
import Synchronization

/// Reads and writes the table and the elements of its sets.
public final class ServiceKernel: Sendable {
    private struct State {
        /// What the rules in force were made of; `nil` where they are not ours.
        var rules: ServiceRules?
        /// Sets in the kernel that come and go with their use.
        var declared: Set<SetName> = []
        /// How many frontends are in each of these.
        var uses: [SetName: Int] = [:]
    }

    private let nftables: Nftables
    private let elements: SetElements
    private let state = Mutex(State())
    /// What we wrote last from nothing, and how this libnftables prints it.
    private let printed = Mutex((written: "", listed: ""))

    /// Elements of one transaction, about.
    private static let largestTransaction = 50_000

    public init(nftables: Nftables, pool: NetlinkPool) throws {
        self.nftables = nftables
        elements = try SetElements(table: ServiceTable.plainName)
        pool.adopt(port: elements.portID)
    }

    /// The table's name, without its family.
    public static let table = ServiceTable.plainName

    /// Removes the table, of whatever version it is; that there is none is no error.
    public static func remove(_ nftables: Nftables) throws {
        guard try nftables.list(table: ServiceTable.name) != nil else { return }
        try nftables.run("delete table \(ServiceTable.name)")
    }

    // MARK: Reading

    func read() throws -> [ServiceEntry] {
        guard let text = try nftables.list(table: ServiceTable.name) else {
            state.withLock { $0 = State() }
            return []
        }
        let listing = TableListing(text)
        let declared = Set(listing.sets.compactMap { SetName($0) }.filter(\.role.isOptional))
        let entries = try listing.sets.filter { SetName($0) == nil }.flatMap { set in
            try elements.read(set).compactMap { ElementForm.entry($0, of: set) }
        }
        let found = try frontends(listing)
        let uses = Self.uses(of: found)
        let rules = listing.rules.flatMap { isOurs(text, ServiceTable($0, optional: declared).listing) ? $0 : nil }
        state.withLock { $0 = State(rules: rules, declared: declared, uses: uses) }
        // What is not used any more goes with a rewrite.
        let isTidy = declared.isSubset(of: uses.keys)
        return [.rules(isTidy ? rules : nil)] + entries + found.map(ServiceEntry.frontend)
    }

    /// What the kernel holds, by address and port.
    func frontends() throws -> [FrontendID: Frontend] {
        guard let text = try nftables.list(table: ServiceTable.name) else { return [:] }
        return Dictionary(uniqueKeysWithValues: try frontends(TableListing(text)).map { ($0.id, $0) })
    }

    private func frontends(_ listing: TableListing) throws -> [Frontend] {
        var facts: [FrontendID: [Fact]] = [:]
        for name in listing.sets.compactMap({ SetName($0) }) where name.role != .affinity {
            for element in try elements.read("\(name)") {
                if let (id, fact) = ElementForm.fact(element, of: name) { facts[id, default: []].append(fact) }
            }
        }
        return facts.map { Frontend(id: $0.key, facts: $0.value) }
    }

    private func isOurs(_ listed: String, _ written: String) -> Bool {
        TableListing.isSame(listed, written) || printed.withLock { $0 == (written, listed) }
    }

    private static func uses(of frontends: [Frontend]) -> [SetName: Int] {
        frontends.reduce(into: [:]) { uses, frontend in for set in frontend.optionalSets { uses[set, default: 0] += 1 }
        }
    }

    // MARK: Writing

    func apply(_ changes: KernelChanges<ServiceEntry>) -> KernelOutcome<ServiceEntry> {
        var outcome = KernelOutcome<ServiceEntry>()
        if changes.remove.contains(where: { $0.id == .rules }) {
            do {
                try Self.remove(nftables)
                state.withLock { $0 = State() }
            } catch {
                outcome.failures = changes.remove.map { KernelFailure(entry: $0, reason: "\(error)") }
            }
            return outcome
        }
        do {
            outcome.mustReadBack = try writeRules(changes)
        } catch {
            return KernelOutcome(failures: changes.add.map { KernelFailure(entry: $0, reason: "\(error)") })
        }
        if outcome.mustReadBack { return outcome }
        for group in Step.groups(changes, limit: Self.largestTransaction) { change(group, &outcome) }
        return outcome
    }

    /// Writes the rules where they change, or where a frontend needs a set that is not there yet.
    /// - Returns: whether elements went.
    private func writeRules(_ changes: KernelChanges<ServiceEntry>) throws -> Bool {
        var wanted: ServiceRules?
        var (needed, used) = (Set<SetName>(), Set<SetName>())
        for case .rules(let rules) in changes.add { wanted = rules }
        let state = state.withLock { $0 }
        for case .frontend(let entry) in changes.add { needed.formUnion(entry.frontend.optionalSets) }
        used = wanted == nil ? state.declared : Set(state.uses.keys)
        if wanted == nil, needed.isSubset(of: state.declared) { return false }
        guard let rules = wanted ?? state.rules else { throw TableMissing() }
        let optional = used.union(needed)
        let table = ServiceTable(rules, optional: optional)
        let unused = state.declared.subtracting(optional)
        let isReplaced = try !rewrite(table, dropping: unused)
        self.state.withLock {
            $0.rules = rules
            $0.declared = optional
        }
        return isReplaced
    }

    private struct TableMissing: Error, CustomStringConvertible {
        var description: String { "the table is not there" }
    }

    /// Empties and fills the chains in one transaction: not for a moment are rules or elements missing.
    /// - Returns: false where something was in the way, and the table was made anew without its elements.
    private func rewrite(_ table: ServiceTable, dropping unused: Set<SetName>) throws -> Bool {
        let name = ServiceTable.name
        let dropped = unused.map { set in
            "delete set \(name) \(set)\n" + (set.role.hasChain ? "delete chain \(name) \(set)\n" : "")
        }
        if (try? write("add table \(name)\nflush table \(name)\n\(dropped.joined())", table)) != nil,
            let listed = try nftables.list(table: name), isOurs(listed, table.listing)
        {
            return true
        }
        // Something is in the way, or this libnftables prints rules in another form than the one we know.
        try write("add table \(name)\ndelete table \(name)\n", table)
        let listed = try nftables.list(table: name) ?? ""
        printed.withLock { $0 = (table.listing, listed) }
        return false
    }

    private func write(_ commands: String, _ table: ServiceTable) throws {
        try nftables.run(commands + table.text)
        try elements.append(table.rememberRules, to: ServiceTable.rememberChain)
    }

    private func change(_ steps: [Step], _ outcome: inout KernelOutcome<ServiceEntry>) {
        var done: [Step] = []
        if (try? elements.change(Step.changes(steps))) != nil {
            done = steps
        } else {
            // One by one, to find out which it is.
            for step in steps {
                do {
                    try elements.change(Step.changes([step]))
                    done.append(step)
                } catch {
                    outcome.failures.append(KernelFailure(entry: step.entry, reason: "\(error)"))
                    outcome.mustReadBack = true
                }
            }
        }
        state.withLock { state in
            for step in done {
                for set in step.old?.optionalSets ?? [] {
                    state.uses[set, default: 0] -= 1
                    if state.uses[set] == 0 { state.uses[set] = nil }
                }
                for set in step.new?.optionalSets ?? [] { state.uses[set, default: 0] += 1 }
            }
        }
        let stale = done.flatMap(\.staleConnections)
        if !stale.isEmpty { try? Conntrack().forget(stale) }
        forgetAffinity(done)
    }

    /// Lets the streams to endpoints that are no more begin anew with their next packet: whoever gets it knows nothing of
    /// them, and resets them.
    func reset(_ streams: [(frontend: FrontendID, endpoint: IPAddress)]) {
        try? Conntrack().forget(streams.map { $0.frontend.connections(to: $0.endpoint) })
    }

    /// Clients are not led any more to an endpoint that is not their service's.
    private func forgetAffinity(_ steps: [Step]) {
        var kept: [SetName: [FrontendID: Set<Backend>]] = [:]
        for step in steps {
            guard let old = step.old, old.affinity != nil else { continue }
            let new = step.new?.affinity == nil ? [] : step.new?.backends ?? []
            if old.backends.isSubset(of: new) { continue }
            kept[SetName(.affinity, old.id.transport, isIPv6: old.id.address.family == .v6), default: [:]][old.id] = new
        }
        for (set, frontends) in kept {
            for element in (try? elements.read("\(set)")) ?? [] {
                guard let (id, backend) = ElementForm.affinity(element, of: set), let kept = frontends[id],
                    !kept.contains(backend)
                else { continue }
                // It may end by itself meanwhile.
                var changes = SetChanges()
                changes.removed["\(set)"] = [element]
                try? elements.change(changes)
            }
        }
    }
}

/// One entry's change.
private struct Step {
    let entry: ServiceEntry
    let old: Frontend?
    let new: Frontend?
    let removed: [(String, SetElement)]
    let added: [(String, SetElement)]

    init(entry: ServiceEntry, replaced: ServiceEntry?, isRemoval: Bool) {
        self.entry = entry
        old = isRemoval ? entry.frontend : replaced?.frontend
        new = isRemoval ? nil : entry.frontend
        if let id = (new ?? old)?.id {
            let (before, after) = (old ?? Frontend(id: id, facts: []), new ?? Frontend(id: id, facts: []))
            removed = after.missing(from: before).map { ElementForm.element($0, of: id) }
            added = before.missing(from: after).map { ElementForm.element($0, of: id) }
        } else {
            let element = ElementForm.element(entry)
            removed = isRemoval ? [element] : []
            added = isRemoval ? [] : [element]
        }
    }

    /// In the order additions, removals; each group for one transaction.
    static func groups(_ changes: KernelChanges<ServiceEntry>, limit: Int) -> [[Step]] {
        var groups: [[Step]] = []
        var group: [Step] = []
        var count = 0
        func take(_ step: Step) {
            group.append(step)
            count += step.added.count + step.removed.count
            if count >= limit {
                groups.append(group)
                (group, count) = ([], 0)
            }
        }
        for entry in changes.add where entry.id != .rules {
            take(Step(entry: entry, replaced: changes.replaced[entry.id], isRemoval: false))
        }
        for entry in changes.remove { take(Step(entry: entry, replaced: nil, isRemoval: true)) }
        return group.isEmpty ? groups : groups + [group]
    }

    static func changes(_ steps: [Step]) -> SetChanges {
        var changes = SetChanges()
        for step in steps {
            for (set, element) in step.removed { changes.removed[set, default: []].append(element) }
            for (set, element) in step.added { changes.added[set, default: []].append(element) }
        }
        return changes
    }

    /// Connections that would go on the old way: to no endpoint at all, or to one that is gone. A stream is left at its
    /// endpoint, which may be about to end it in order.
    var staleConnections: [ConnectionFilter] {
        guard let id = (new ?? old)?.id else { return [] }
        let (before, after) = (old?.backends ?? [], new?.backends ?? [])
        let isStream = id.transport != .udp
        if before.isEmpty, !after.isEmpty {
            return [id.connections(to: isStream ? id.address : nil, isUnanswered: isStream)]
        }
        return isStream ? [] : Set(before.subtracting(after).map(\.address)).map { id.connections(to: $0) }
    }
}

extension FrontendID {
    fileprivate func connections(to answerer: IPAddress?, isUnanswered: Bool = false) -> ConnectionFilter {
        ConnectionFilter(
            transport: transport.number, destination: address, destinationPort: port, answerer: answerer,
            isUnanswered: isUnanswered)
    }
}

extension ServiceEntry {
    fileprivate var frontend: Frontend? { if case .frontend(let entry) = self { entry.frontend } else { nil } }

    /// The sets that must be there for it.
    var optionalSets: [SetName] { frontend?.optionalSets ?? [] }
}

extension Frontend {
    fileprivate var optionalSets: [SetName] {
        facts.compactMap { fact in
            guard case .member(let role) = fact, role.isOptional else { return nil }
            return SetName(role, id.transport, isIPv6: id.address.family == .v6)
        }
    }
}

extension SetRole {
    fileprivate var hasChain: Bool { if case .balancer = self { true } else { false } }
}
