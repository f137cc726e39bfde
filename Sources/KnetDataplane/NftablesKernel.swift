import KnetCore
import KnetLinux
import Synchronization

/// Reads and writes tables of ours and the elements of their sets.
final class NftablesKernel: Sendable {
    /// Tables that belong to dataplanes.
    static let tables = [MasqueradeTable.name, HostPortTable.name]
    private static let sets = HostPortTable.sets

    private let nftables: Nftables
    /// How this libnftables prints what we wrote, where that differs from our own form.
    private let printedForm = Mutex<[NftablesTable: String]>([:])

    init(_ nftables: Nftables) { self.nftables = nftables }

    // MARK: Reading

    func read() throws -> [NetworkEntry] {
        let tables = try Self.tables.compactMap { name -> NetworkEntry? in
            guard let text = try nftables.list(table: name) else { return nil }
            let written = printedForm.withLock { forms in forms.first { $0.key.name == name && $0.value == text }?.key }
            return .table(written ?? NftablesTable(name: name, text: text))
        }
        let elements = try Self.sets.flatMap { set in
            try nftables.elements(of: "\(set.keyword) \(set.name)").map {
                NetworkEntry.element(NftablesElement(set: set.name, key: $0.key, value: $0.value))
            }
        }
        return tables + elements
    }

    // MARK: Writing

    /// - Returns: whether elements went with the table.
    func replace(_ table: NftablesTable) throws -> Bool {
        // Chains emptied and filled in one transaction: not for a moment are the table's elements or rules missing.
        if let listed = try? rewrite("add table \(table.name)\nflush table \(table.name)\n\(table.text)", table),
            listed == table.text
        {
            return false
        }
        // Something is in the way: a chain or set that is not as ours, or not ours. `add` before `delete` lets the deletion
        // succeed where there is nothing yet.
        let listed = try rewrite("add table \(table.name)\ndelete table \(table.name)\n\(table.text)", table)
        printedForm.withLock { forms in
            forms = forms.filter { $0.key.name != table.name }
            if let listed, listed != table.text { forms[table] = listed }
        }
        return true
    }

    private func rewrite(_ commands: String, _ table: NftablesTable) throws -> String? {
        try nftables.run(commands)
        return try nftables.list(table: table.name)
    }

    func delete(_ table: NftablesTable) throws { try nftables.run("delete table \(table.name)") }

    /// Changes elements in one transaction; where nftables refuses that, one by one.
    /// - Parameter replaced: what is in the place of some of `added`, by set and key.
    /// - Returns: what was refused.
    func change(
        added: [NftablesElement], replaced: [NetworkEntry.ID: NetworkEntry], removed: [NftablesElement]
    ) -> [KernelFailure<NetworkEntry>] {
        let steps =
            removed.map { Step(element: $0, commands: "delete element \($0.set) { \($0.key) }\n", isRemoval: true) }
            + added.map { element in
                let old =
                    replaced[NetworkEntry.element(element).id] == nil
                    ? "" : "delete element \(element.set) { \(element.key) }\n"
                return Step(
                    element: element, commands: "\(old)add element \(element.set) { \(element.text) }\n",
                    isRemoval: false)
            }
        guard !steps.isEmpty else { return [] }
        if (try? nftables.run(steps.map(\.commands).joined())) != nil { return [] }
        return steps.compactMap { step in
            do throws(NftablesError) {
                try nftables.run(step.commands)
                return nil
            } catch {
                return step.isRemoval && error.isAbsence
                    ? nil : KernelFailure(entry: .element(step.element), reason: "\(error)")
            }
        }
    }

    private struct Step {
        let element: NftablesElement
        let commands: String
        let isRemoval: Bool
    }
}
