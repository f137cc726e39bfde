import KnetCore
import NIOCore
import Synchronization

/// Answers the queries that must wait for another server, and those over TCP.
actor Recursor {
    nonisolated var unownedExecutor: UnownedSerialExecutor { forwarder.unownedExecutor }

    private let forwarder: Forwarder
    private let contents: Published
    private let cache: AnswerCache
    private let resolver: Resolver
    private let room = Room()
    nonisolated let waiting: WaitingQueries

    /// As many as names in a chain, and domains of a search.
    private static let mostFetches = 24

    init(
        forwarder: Forwarder, contents: Published, cache: AnswerCache, walks: SearchWalks, names: NameExchange? = nil,
        waiting: WaitingQueries
    ) {
        self.waiting = waiting
        self.cache = cache
        self.forwarder = forwarder
        self.contents = contents
        resolver = Resolver(cache: cache, walks: walks, names: names)
    }

    /// Where answers are written.
    private final class Room {
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_535, alignment: 8)
        deinit { bytes.deallocate() }
    }

    /// - Parameter waits: whether the query was let in by `waiting`; it leaves when it is answered.
    /// - Returns: the answer, `nil` where there is none, and what became of the query.
    func answer(
        _ message: [UInt8], from client: IPAddress, refuses: Bool, isDatagram: Bool, waits: Bool = false
    ) async -> (bytes: [UInt8], facts: Resolver.Facts)? {
        await answer(message, from: client, refuses: refuses, isDatagram: isDatagram, waits: waits, trace: nil)?.0
    }

    /// - Parameter trace: what was noted so far; `nil` where nothing is to be noted.
    /// - Returns: the answer with what was noted.
    func answer(
        _ message: [UInt8], from client: IPAddress?, refuses: Bool, isDatagram: Bool, waits: Bool = false,
        trace: [String]?
    ) async -> ((bytes: [UInt8], facts: Resolver.Facts), trace: [String])? {
        var material = Resolver.Material(contents: contents.current, now: Clock.now)
        var waits = waits
        defer { if waits { waiting.leave() } }
        var notes = trace ?? []
        while true {
            resolver.trace = trace == nil ? nil : []
            let outcome = message.withUnsafeBytes {
                resolver.answer(
                    $0, from: client, refuses: refuses, isDatagram: isDatagram, with: material, into: room.bytes)
            }
            let facts = resolver.facts
            switch outcome {
            case .ignore: return nil
            case .send(let count):
                if let question = facts.prefetch { Task { await forwarder.prefetch(question) } }
                return ((Array(room.bytes[..<count]), facts), notes + (resolver.trace ?? []))
            case .fetch(let question):
                waits = waits || waiting.enter()
                guard waits, material.fetched.count < Self.mostFetches else {
                    material.fetched.append((question, cache.findWithoutAsking(question, now: Clock.now)))
                    continue
                }
                notes.append("\(question): asking upstream")
                material.fetched.append((question, await forwarder.fetch(question)))
            }
        }
    }
}

/// The contents of the day, for all threads.
final class Published: Sendable {
    private let contents: Mutex<Contents>
    private let number = Atomic<Int>(1)

    init(_ contents: Contents) { self.contents = Mutex(contents) }

    var current: Contents { contents.withLock { $0 } }

    /// Counts the changes; a reader that has this number's contents need not read them again.
    var version: Int { number.load(ordering: .acquiring) }

    func change(_ body: (inout Contents) -> Void) {
        contents.withLock { body(&$0) }
        number.add(1, ordering: .releasing)
    }
}
