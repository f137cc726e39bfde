import Synchronization

/// Between the plugin that knows who may talk to whom and a dataplane that remembers its answers. Neither need be there.
public final class VerdictExchange: Sendable {
    /// May the source begin a connection?
    public struct Question: Hashable, Sendable {
        public let source: IPAddress
        public let destination: IPAddress
        /// IANA's number.
        public let transport: UInt8
        /// 0 for transports without ports.
        public let port: UInt16
        /// Which ends are pods of this node, as the dataplane has it.
        public let isLocal: (source: Bool, destination: Bool)

        public init(
            source: IPAddress, destination: IPAddress, transport: UInt8, port: UInt16,
            isLocal: (source: Bool, destination: Bool)
        ) {
            self.source = source
            self.destination = destination
            self.transport = transport
            self.port = port
            self.isLocal = isLocal
        }

        public static func == (one: Question, other: Question) -> Bool {
            one.source == other.source && one.destination == other.destination && one.transport == other.transport
                && one.port == other.port && one.isLocal == other.isLocal
        }

        public func hash(into hasher: inout Hasher) {
            hasher.combine(source)
            hasher.combine(destination)
            hasher.combine(transport)
            hasher.combine(port)
        }
    }

    /// - Returns: `nil` where it cannot be said before something about an end changes. What policies say of ends on other nodes is
    ///   those nodes' business.
    public typealias Judge = @Sendable (Question) -> Bool?
    /// Forgets the answers about these addresses; `nil`: all that are given otherwise now.
    public typealias Memory = @Sendable (Set<IPAddress>?) -> Void

    private let judge = Mutex<Judge?>(nil)
    private let memory = Mutex<Memory?>(nil)

    public init() {}

    // MARK: Who knows

    public func judge(by judge: @escaping Judge) { self.judge.withLock { $0 = judge } }

    /// Whether answers are remembered.
    public var isRemembered: Bool { memory.withLock { $0 != nil } }

    /// Called once questions are answered by what is true now, and before that is so anywhere else. No answer that was given before
    /// holds when it returns.
    public func forget(_ addresses: Set<IPAddress>?) { memory.withLock { $0 }?(addresses) }

    // MARK: Who remembers

    public func remember(by memory: @escaping Memory) { self.memory.withLock { $0 = memory } }

    public func rememberNothing() { memory.withLock { $0 = nil } }

    public func ask(_ question: Question) -> Bool? { judge.withLock { $0 }?(question) }
}
