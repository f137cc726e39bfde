/// Where the cluster's objects come from: files, or the API server.
public protocol ClusterSource: Sendable {
    /// Keeps the state as the source has it, until the task is cancelled.
    func run() async

    var report: SourceReport { get }
}

/// What a source says of itself, for status and metrics.
public struct SourceReport: Sendable, Codable {
    /// What the API server was asked and said about one kind.
    public struct Kind: Sendable, Codable {
        public let kind: String
        public let objects: Int
        /// Whether its changes are followed now.
        public let isLive: Bool
        public let lists: Int
        public let watches: Int
        public let events: Int

        public init(kind: String, objects: Int, isLive: Bool, lists: Int, watches: Int, events: Int) {
            self.kind = kind
            self.objects = objects
            self.isLive = isLive
            self.lists = lists
            self.watches = watches
            self.events = events
        }
    }

    /// What and where it is.
    public var title: String
    /// Whether the state is as the source has it now.
    public var isLive: Bool
    /// Seconds since the source was last heard while it is not live, or since the snapshot was saved; 0 while it is live.
    public var staleSeconds = 0
    /// Whether some of the state is what an earlier process saved.
    public var isFromSnapshot = false
    /// Why the source cannot be followed.
    public var troubles: [String] = []
    /// Documents and objects that are skipped, and why.
    public var faults: [String] = []
    public var kinds: [Kind] = []
    /// Requests to the API server by status code; `failed` for those without an answer.
    public var requests: [String: Int] = [:]

    public init(title: String, isLive: Bool) {
        self.title = title
        self.isLive = isLive
    }
}

/// What a plugin reads of the cluster. What nobody needs is not asked for.
public struct ClusterNeeds: Sendable, Hashable {
    public var kinds: Set<ObjectKey.Kind>
    /// Whether pods of other nodes are among them.
    public var podsOfOtherNodes: Bool
    /// Whether it writes by the `ClusterWriter`, of which one process is elected.
    public var writes: Bool

    public init(_ kinds: Set<ObjectKey.Kind>, podsOfOtherNodes: Bool = false, writes: Bool = false) {
        self.kinds = kinds
        self.podsOfOtherNodes = podsOfOtherNodes
        self.writes = writes
    }

    public func union(_ other: ClusterNeeds) -> ClusterNeeds {
        ClusterNeeds(
            kinds.union(other.kinds), podsOfOtherNodes: podsOfOtherNodes || other.podsOfOtherNodes,
            writes: writes || other.writes)
    }
}
