import KnetCore
import ServiceProxyPlugin
import Synchronization

/// Frontends and their slots in maps. A frontend of which nothing is to be there (of size 0) is remembered all the same: nobody else has
/// its address.
final class FrontendMaps: Sendable {
    private let frontends: BPFMap
    private let slots: BPFMap
    /// Endpoints of datagrams' frontends.
    private let members: BPFMap?
    /// Nothing is in the maps for them.
    private let left = Mutex<[PlainFrontend.ID: PlainFrontend]>([:])

    init(_ frontends: BPFMap, slots: BPFMap, members: BPFMap? = nil) {
        self.frontends = frontends
        self.slots = slots
        self.members = members
    }

    /// What is in the maps. Values of frontends begin with their size.
    func read() throws -> [PlainFrontend] { try readWithValues().map(\.frontend) }

    /// - Returns: with the rest of each frontend's value.
    func readWithValues() throws -> [(frontend: PlainFrontend, rest: [UInt8])] {
        var held: [PlainFrontend.ID: [PlainFrontend.Slot]] = [:]
        try slots.visit { key, value in
            if let (id, slot) = SocketForm.slot(key, value) { held[id, default: []].append(slot) }
        }
        var memberKeys: Set<[UInt8]> = []
        try members?.visit { key, _ in memberKeys.insert(Array(key)) }
        // Those without a slot, as of who was killed between two writes, are to go with one that is not there.
        let known = Set(held.flatMap { id, slots in slots.map { SocketForm.member($0, of: id) } })
        for key in memberKeys.subtracting(known) {
            if let (id, slot) = SocketForm.memberWithoutSlot(key) { held[id, default: []].append(slot) }
        }
        var found: [(frontend: PlainFrontend, rest: [UInt8])] = []
        try frontends.visit { key, value in
            guard let id = SocketForm.frontend(key) else { return }
            let slots = (held.removeValue(forKey: id) ?? []).sorted { $0.number < $1.number }
            let isWhole =
                members == nil || !id.isOfDatagrams
                || slots.allSatisfy { memberKeys.contains(SocketForm.member($0, of: id)) }
            let frontend = PlainFrontend(id: id, size: isWhole ? SocketForm.number(value) : 0, slots: slots)
            found.append((frontend, Array(value.dropFirst(4))))
        }
        // Slots of frontends that were cut off; nobody wants these.
        found += held.map { (PlainFrontend(id: $0, size: 0, slots: $1), []) }
        let ids = Set(found.map(\.frontend.id))
        return found + left.withLock { $0.values.filter { !ids.contains($0.id) }.map { ($0, []) } }
    }

    /// - Parameters:
    ///   - old: what is in the maps; `nil` where that is not known.
    ///   - value: what the frontend is in its map.
    func set(_ frontend: PlainFrontend, replacing old: PlainFrontend?, _ value: [UInt8]) throws {
        do {
            try write(frontend, old, value)
        } catch {
            // Half of it would be a Service with half of its endpoints.
            try? remove(frontend)
            if let old { try? remove(old) }
            throw error
        }
    }

    /// New endpoints first, then among how many to draw, then the old ones go: no draw meets none in between.
    private func write(_ frontend: PlainFrontend, _ old: PlainFrontend?, _ value: [UInt8]) throws {
        if frontend.size == 0 {
            if let old { try remove(old) }
            return left.withLock { $0[frontend.id] = frontend }
        }
        left.withLock { $0[frontend.id] = nil }
        // What was read with a size of 0 lacks something.
        let known = Set(old?.size == 0 ? [] : old?.slots ?? [])
        let id = frontend.id
        for slot in frontend.slots where !known.contains(slot) {
            if id.isOfDatagrams { try members?.set(SocketForm.member(slot, of: id), SocketForm.number(1)) }
            try slots.set(SocketForm.slot(slot, of: id), SocketForm.backend(slot))
        }
        if old?.size != frontend.size { try frontends.set(SocketForm.frontend(id), value) }
        let (numbers, endpoints) = (Set(frontend.slots.map(\.number)), Set(frontend.slots.map(\.endpoint)))
        for slot in old?.slots ?? [] {
            if id.isOfDatagrams, !endpoints.contains(slot.endpoint) {
                try members?.remove(SocketForm.member(slot, of: id))
            }
            if !numbers.contains(slot.number) { try slots.remove(SocketForm.slot(slot, of: id)) }
        }
    }

    func remove(_ frontend: PlainFrontend) throws {
        let wasLeft = left.withLock { $0.removeValue(forKey: frontend.id) == frontend }
        if wasLeft { return }
        try frontends.remove(SocketForm.frontend(frontend.id))
        for slot in frontend.slots {
            try slots.remove(SocketForm.slot(slot, of: frontend.id))
            if frontend.id.isOfDatagrams { try members?.remove(SocketForm.member(slot, of: frontend.id)) }
        }
    }
}
