/// An answer over HTTP.
public struct WebPage: Sendable {
    public let status: Int
    public let text: String
    public let type: String
    public let headers: [String: String]

    public init(
        status: Int, text: String, type: String = "text/plain; charset=utf-8", headers: [String: String] = [:]
    ) {
        self.status = status
        self.text = text
        self.type = type
        self.headers = headers
    }
}

/// What a plugin offers beside what it keeps in the kernel.
public protocol PluginService: Sendable {
    /// Works until the task is cancelled: then it lets go of what others may take over.
    func run() async

    /// Whether it goes on until all else of a daemon that stops has ended: somebody waits for each of its answers.
    var answersToTheEnd: Bool { get }

    /// Where it wants to be asked over HTTP now, and what answers a path there.
    /// - Parameter isHealthy: whether the plugin's entries are in force.
    func servers(
        in state: ClusterState, isHealthy: @escaping @Sendable () -> Bool
    ) -> [Endpoint: @Sendable (String) -> WebPage]

    /// What it has to tell of what the words name; of everything without any.
    /// - Throws: why it cannot, for people.
    func describe(_ words: [String], in state: ClusterState) async throws -> JSONValue

    /// What is wrong beside the objects of the cluster.
    var faults: [String] { get }

    /// Adds its measurements to `/metrics`.
    func measure(_ page: inout MetricsText, in state: ClusterState)
}

extension PluginService {
    public func run() async {}

    public var answersToTheEnd: Bool { false }

    public var faults: [String] { [] }

    public func servers(
        in state: ClusterState, isHealthy: @escaping @Sendable () -> Bool
    ) -> [Endpoint: @Sendable (String) -> WebPage] { [:] }
}
