/// What is asked of the daemon over its socket: one JSON text each way, the end of the stream ends it. A request of the
/// CNI mode that names a namespace carries its open descriptor (`SCM_RIGHTS`), so that the daemon need not see the
/// runtime's mounts.
public enum AgentRequest: Sendable, Codable {
    case cni(CNIRequest)
    case status
    /// What a plugin has to tell; the words say of what.
    case describe(plugin: String, words: [String])
}

public struct AgentReply: Sendable, Codable {
    public let succeeded: Bool
    /// For the CNI mode: what it prints, a result or an error.
    public let body: JSONValue?

    public init(succeeded: Bool, body: JSONValue?) {
        self.succeeded = succeeded
        self.body = body
    }

    /// Bytes that a request or reply may have at most.
    public static let limit = 4 << 20
}
