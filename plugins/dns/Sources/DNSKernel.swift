import HashTreeCollections
import KnetCore
import KnetLinux
import Synchronization

/// Keeps rules, addresses and the names that are answered as they are wanted.
final class DNSKernel: Sendable {
    fileprivate struct Held {
        var parts: [ObjectKey: ZonePart] = [:]
    }

    private let rules: DNSRules
    private let addresses: ServedAddresses
    private let published: Published
    private let held = Mutex(Held())

    init(rules: DNSRules, addresses: ServedAddresses, published: Published) {
        self.rules = rules
        self.addresses = addresses
        self.published = published
    }

    func read() throws -> [DNSEntry] {
        let written = try rules.read()
        let names = held.withLock { $0.parts.map { DNSEntry.names($0.key, .init(part: $0.value)) } }
        let clients = published.current.clients.map { DNSEntry.client($0.key, .init(client: $0.value)) }
        return (written.map { [.rules($0)] } ?? []) + (try addresses.read().map { .address($0, isServed: $1) }) + names
            + clients
    }

    /// - Parameter isComplete: whether names that are not there after these changes do not exist.
    func apply(_ changes: KernelChanges<DNSEntry>, isComplete: Bool) -> KernelOutcome<DNSEntry> {
        // Names first: who finds the address finds them.
        publish(changes, isComplete: isComplete)
        var outcome = KernelOutcome<DNSEntry>()
        func attempt(_ entry: DNSEntry, _ body: () throws -> Void) {
            do { try body() } catch { outcome.failures.append(KernelFailure(entry: entry, reason: "\(error)")) }
        }
        for case .rules(let wanted?) in changes.add { attempt(.rules(wanted)) { try rules.write(wanted) } }
        for case .address(let address, _) in changes.add {
            attempt(.address(address, isServed: true)) { try addresses.add(address) }
        }
        for case .address(let address, let isServed) in changes.remove {
            attempt(.address(address, isServed: isServed)) { try addresses.remove(address) }
        }
        return outcome
    }

    /// Replaces what queries are answered from, once for all changes.
    func publish(_ changes: KernelChanges<DNSEntry>, isComplete: Bool) {
        let hasNames = changes.add.contains { $0.isMemory } || changes.remove.contains { $0.isMemory }
        guard hasNames || published.current.zone.isComplete != isComplete else { return }
        held.withLock { held in
            published.change { contents in
                for entry in changes.remove { held.remove(entry, from: &contents) }
                for entry in changes.add {
                    held.remove(entry, from: &contents)
                    switch entry {
                    case .names(let key, let names):
                        held.parts[key] = names.part
                        contents.zone.insert(names.part)
                    case .client(let address, let view): contents.clients[address] = view.client
                    case .rules, .address: break
                    }
                }
                contents.zone.isComplete = isComplete
                contents.zone.serial = max(contents.zone.serial &+ 1, Clock.wall)
            }
        }
    }
}

extension DNSKernel.Held {
    fileprivate mutating func remove(_ entry: DNSEntry, from contents: inout Contents) {
        switch entry {
        case .names(let key, _):
            if let part = parts.removeValue(forKey: key) { contents.zone.remove(part) }
        case .client(let address, _): contents.clients[address] = nil
        case .rules, .address: break
        }
    }
}

extension DNSEntry {
    /// Whether it is in this process' memory, not in the kernel.
    fileprivate var isMemory: Bool {
        switch self {
        case .names, .client: true
        case .rules, .address: false
        }
    }
}
