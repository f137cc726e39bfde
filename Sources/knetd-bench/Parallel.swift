import Dispatch
import KnetLinux
import Synchronization

/// Several things at the same time, each on a thread of its own.
enum Parallel {
    /// - Returns: what each gave, in order.
    /// - Throws: the first error, after all are done.
    static func run<Result: Sendable>(
        _ count: Int, _ body: @escaping @Sendable (Int) throws -> Result
    ) throws -> [Result] {
        let results = Results<Result>()
        let group = DispatchGroup()
        var failure: (any Error)?
        for index in 0..<count {
            group.enter()
            do {
                try DedicatedThread.start(name: "bench-\(index)") {
                    let result = Swift.Result { try body(index) }
                    results.contents.withLock { $0[index] = result }
                    group.leave()
                }
            } catch {
                failure = error
                group.leave()
            }
        }
        group.wait()
        if let failure { throw failure }
        let all = results.contents.withLock { $0 }
        return try (0..<count).compactMap { try all[$0]?.get() }
    }

    /// Filled by several threads.
    private final class Results<Result: Sendable>: Sendable {
        let contents = Mutex<[Int: Swift.Result<Result, any Error>]>([:])
    }
}
