import Synchronization

/// What became of a connection, as somebody saw it who carries or denies it.
public struct FlowEvent: Sendable {
    public enum Kind: String, Sendable, CaseIterable {
        case began, ended
        /// It goes on, and is one of the largest.
        case running
        /// A policy admitted it not.
        case denied
        /// No endpoint of a Service was there for it.
        case refused
        /// It goes past the host's stack from now on: what that says of its end is not its end.
        case moved
    }

    public struct End: Hashable, Sendable {
        public let address: IPAddress
        /// `nil` for transports without ports.
        public let port: UInt16?

        public init(_ address: IPAddress, port: UInt16?) {
            self.address = address
            self.port = port
        }
    }

    public struct Count: Hashable, Sendable {
        public let packets: UInt64
        public let bytes: UInt64

        public init(packets: UInt64, bytes: UInt64) {
            self.packets = packets
            self.bytes = bytes
        }
    }

    public var kind: Kind
    /// IANA's number.
    public var transport: UInt8
    /// Who began it.
    public var source: End
    /// Who answers; where nobody does, where it was sent to.
    public var destination: End
    /// Where it was sent to, if that is elsewhere.
    public var asked: End?
    /// What the one who began sent, and what was answered; `nil` where nobody counted.
    public var counts: (sent: Count, answered: Count)?
    /// Whether it went past the host's stack.
    public var isPastStack = false
    /// Why it was denied or refused.
    public var reason: String?

    public init(_ kind: Kind, transport: UInt8, from source: End, to destination: End) {
        self.kind = kind
        self.transport = transport
        self.source = source
        self.destination = destination
    }
}

/// Between plugins that see connections and the one that holds what they saw. Where nobody does, nothing need be told.
public final class FlowExchange: Sendable {
    public typealias Listener = @Sendable (FlowEvent) -> Void

    /// Whether somebody listens, or will.
    public let isHeard: Bool
    /// Seconds after which those that go on are looked at again; 0: never.
    public let sampleSeconds: Int
    private let listener = Mutex<Listener?>(nil)

    /// - Parameter settings: `plugins.flows` in the configuration, every default filled in; `nil`: nobody listens.
    public init(heardBy settings: JSONValue? = nil) {
        isHeard = settings != nil
        sampleSeconds = settings?["sampleSeconds"]?.integer ?? 0
    }

    /// - Parameter listener: called from any thread; it must not block.
    public func listen(_ listener: @escaping Listener) { self.listener.withLock { $0 = listener } }

    public func tell(_ event: FlowEvent) { listener.withLock { $0 }?(event) }
}
