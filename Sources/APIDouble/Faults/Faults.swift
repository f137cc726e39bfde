extension APIDouble {
    /// How often, and in which ways, the server misbehaves. Probabilities are from 0 to 1. Each fault is one that a server, a
    /// proxy or a network causes in practice, and none takes away what a correct client needs to arrive at the server's state.
    public struct Faults: Sendable, Equatable {
        /// Equal seeds give equal decisions for equal orders of requests and events.
        public var seed: UInt64

        // MARK: Per watch event

        /// The stream ends as if its time were over, before the event.
        public var cleanCut = 0.0
        /// The connection ends in the middle of the event's frame.
        public var cutInsideFrame = 0.0
        /// The connection is reset (RST) instead of sending the event.
        public var reset = 0.0
        /// The connection stays open and says nothing any more, also not that its time is over.
        public var silence = 0.0
        /// The event comes twice.
        public var duplicate = 0.0
        /// The stream falls back: events it has sent come again, in order, up to this one.
        public var replay = 0.0
        /// An ERROR event with 410 Expired comes instead, and the end.
        public var expired = 0.0
        /// An ERROR event with 500 InternalError comes instead, and the end.
        public var failed = 0.0
        /// Bytes that are no event come instead, and the stream goes on.
        public var garbage = 0.0
        /// A bookmark is withheld; the one at the end of the initial events until the next is due.
        public var withheldBookmark = 0.0

        // MARK: Per request

        /// 429 with `Retry-After`, as text (priority and fairness) or as a `Status` (a watch cache that is not ready).
        public var tooManyRequests = 0.0
        /// 500, from the server or as a proxy's page.
        public var serverError = 0.0
        /// 503, from the server or as a proxy's page.
        public var unavailable = 0.0
        /// The answer comes late, by up to `longestDelay`.
        public var delay = 0.0
        public var longestDelay: Duration = .milliseconds(500)
        /// The connection is closed without an answer.
        public var noAnswer = 0.0
        /// A list's body ends too early, and the connection with it.
        public var truncatedList = 0.0
        /// Seconds that a 429 asks to wait.
        public var retryAfterSeconds = 1

        // MARK: Per write

        /// The history is forgotten.
        public var compaction = 0.0

        // MARK: Always

        /// Resources by name (`pods`, `endpointslices.discovery.k8s.io`) that are answered with 403.
        public var forbidden: Set<String> = []
        /// Resources that are answered with 404, as one whose definition is not installed.
        public var unknown: Set<String> = []

        public init(seed: UInt64 = 1) { self.seed = seed }

        public static let none = Faults()

        /// Everything at once, each with a probability of `share`.
        public static func everything(_ share: Double, seed: UInt64) -> Faults {
            var faults = Faults(seed: seed)
            for kind in WatchFault.allCases { faults[keyPath: kind.probability] = share }
            for kind in RequestFault.allCases { faults[keyPath: kind.probability] = share }
            faults.withheldBookmark = share
            faults.compaction = share
            return faults
        }
    }
}

typealias Faults = APIDouble.Faults

/// What can befall an event.
enum WatchFault: CaseIterable {
    case cleanCut, cutInsideFrame, reset, silence, duplicate, replay, expired, failed, garbage

    var probability: WritableKeyPath<Faults, Double> {
        switch self {
        case .cleanCut: \.cleanCut
        case .cutInsideFrame: \.cutInsideFrame
        case .reset: \.reset
        case .silence: \.silence
        case .duplicate: \.duplicate
        case .replay: \.replay
        case .expired: \.expired
        case .failed: \.failed
        case .garbage: \.garbage
        }
    }
}

/// What can befall a request.
enum RequestFault: CaseIterable {
    case tooManyRequests, serverError, unavailable, delay, noAnswer, truncatedList

    var probability: WritableKeyPath<Faults, Double> {
        switch self {
        case .tooManyRequests: \.tooManyRequests
        case .serverError: \.serverError
        case .unavailable: \.unavailable
        case .delay: \.delay
        case .noAnswer: \.noAnswer
        case .truncatedList: \.truncatedList
        }
    }
}
