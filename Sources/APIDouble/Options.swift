import Glibc

extension APIDouble {
    /// What a server is started with.
    public struct Options: Sendable {
        public enum Listener: Sendable {
            /// A numeric address and a port; port 0 takes a free one.
            case address(String, port: Int)
            /// A bound socket, listening or not, perhaps of another network namespace. It stays the caller's: the server
            /// works on a duplicate.
            case socket(CInt)
        }

        /// PEM texts.
        public struct TLS: Sendable {
            /// The server's certificate, then what leads to its authority.
            public var certificates: String
            public var key: String
            /// Who signs clients' certificates; a client that has one needs no token.
            public var clientAuthority: String?

            public init(certificates: String, key: String, clientAuthority: String? = nil) {
                self.certificates = certificates
                self.key = key
                self.clientAuthority = clientAuthority
            }
        }

        public var listener = Listener.address("127.0.0.1", port: 0)
        public var tls: TLS?
        /// Bearer tokens that are accepted; `nil` asks nobody who they are.
        public var tokens: Set<String>?
        /// Whether watches may begin with the present state (`sendInitialEvents`); a server without refuses that with 422.
        public var watchList = true
        /// The revision before the first write.
        public var revision = 1000
        /// Between two bookmarks; a real server has about a minute.
        public var bookmarkInterval: Duration = .seconds(60)
        /// How long a watch lasts that sets no time; a real server has 30 to 60 minutes.
        public var watchTimeout: Duration = .seconds(1800)
        /// How long a request for a revision that is not reached yet waits for it; a real server has 3 s.
        public var freshnessTimeout: Duration = .milliseconds(200)
        /// Whether a watch of a forgotten revision is refused with HTTP status 410. A real server answers 200 and sends
        /// the same in an ERROR event; older ones, and some proxies of several servers, answered 410.
        public var refusesOldWatches = false
        /// Whether all requests are remembered; a long benchmark has no need of it.
        public var logsRequests = true
        /// Event loops.
        public var threads = 2

        public init() {}
    }
}
