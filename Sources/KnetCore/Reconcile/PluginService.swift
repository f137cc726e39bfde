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
    /// Where it wants to be asked over HTTP now, and what answers a path there.
    /// - Parameter isHealthy: whether the plugin's entries are in force.
    func servers(
        in state: ClusterState, isHealthy: @escaping @Sendable () -> Bool
    ) -> [Endpoint: @Sendable (String) -> WebPage]

    /// One of the objects that it serves, by `name` or `namespace/name`, or all of them.
    func describe(_ name: String?, in state: ClusterState) throws -> JSONValue

    /// Adds its measurements to `/metrics`.
    func measure(_ page: inout MetricsText, in state: ClusterState)
}
