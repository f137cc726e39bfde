import Synchronization

/// How many watches of each resource are open.
final class WatchCount: Sendable {
    private let counts = Mutex<[String: Int]>([:])

    var all: [String: Int] { counts.withLock { $0.filter { $0.value > 0 } } }

    func opened(_ resource: Resource) { counts.withLock { $0[resource.name, default: 0] += 1 } }

    func closed(_ resource: Resource) { counts.withLock { $0[resource.name, default: 0] -= 1 } }
}
