import Synchronization

/// Between the plugin that answers for names and one that admits addresses by their names: what a pod is told is known to the other
/// before the pod has it. Neither need be there.
public final class NameExchange: Sendable {
    /// - Parameters:
    ///   - patterns: those that the name, or one that it leads to, agrees with.
    ///   - lifetime: seconds for which the addresses were told.
    public typealias Listener = @Sendable (_ patterns: [String], _ addresses: [IPAddress], _ lifetime: UInt32) -> Void

    private struct Contents {
        var patterns: Set<String> = []
        var listener: Listener?
    }

    private let contents = Mutex(Contents())
    private let number = Atomic(0)
    private let served = Atomic(false)

    public init() {}

    /// Counts the changes of `patterns`: who has seen this number need not look again.
    public var version: Int { number.load(ordering: .acquiring) }

    /// Names that somebody wants to hear of, in small letters: `example.com`, or `*.example.com` for all names below.
    public var patterns: Set<String> { contents.withLock { $0.patterns } }

    /// Whether somebody tells of names.
    public var isServed: Bool { served.load(ordering: .relaxed) }

    /// Says that names are told from now on.
    public func serve() { served.store(true, ordering: .relaxed) }

    /// Takes these patterns in the place of earlier ones.
    public func listen(to patterns: Set<String>, _ listener: @escaping Listener) {
        contents.withLock { contents in
            contents.listener = listener
            guard contents.patterns != patterns else { return }
            contents.patterns = patterns
            number.add(1, ordering: .releasing)
        }
    }

    /// Returns once the listener has done what it does.
    public func tell(_ patterns: [String], _ addresses: [IPAddress], lifetime: UInt32) {
        contents.withLock { $0.listener }?(patterns, addresses, lifetime)
    }
}
