import KnetCore
import Synchronization

/// Names that pods' resolvers may ask for because a search led to nothing. A resolver that was told so goes on through its list by
/// itself, and some of what it tries then looks like the first name of another search: after `api.default` it asks for
/// `api.default.svc.cluster.local`, as one that looks for `api` does. Such a name gets a plain answer for a while, which is right in
/// both cases.
final class SearchWalks: Sendable {
    private struct Walk: Hashable {
        let client: IPAddress
        let name: NameKey
    }

    private let ends = Mutex<[Walk: Int64]>([:])
    private let count = Atomic(0)

    /// Longer than a resolver takes for its whole list.
    private static let lifetime: Int64 = 30_000
    /// With more under way no search is completed: plain answers are always right.
    private static let limit = 8_192

    /// Whether the name is to be answered as it stands.
    func contains(_ name: UnsafeRawBufferPointer, of client: IPAddress, now: Int64) -> Bool {
        let known = count.load(ordering: .relaxed)
        if known == 0 { return false }
        return ends.withLock { ends in
            if known >= Self.limit {
                ends = ends.filter { $0.value > now }
                count.store(ends.count, ordering: .relaxed)
                if ends.count >= Self.limit { return true }
            }
            return ends[Walk(client: client, name: NameKey(sought: name))].map { $0 > now } ?? false
        }
    }

    func insert(_ name: UnsafeRawBufferPointer, of client: IPAddress, now: Int64) {
        ends.withLock { ends in
            ends[Walk(client: client, name: NameKey(DomainName(checked: name)))] = now + Self.lifetime
            count.store(ends.count, ordering: .relaxed)
        }
    }
}
