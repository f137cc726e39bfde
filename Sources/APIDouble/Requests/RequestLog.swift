import Synchronization

extension APIDouble {
    /// What a client asked, and what it was answered.
    public struct Request: Sendable {
        /// As RBAC names it: get, list, watch, create, update, patch, delete; empty for paths that are no resources.
        public var verb = ""
        public var apiGroup = ""
        public var resource = ""
        public var subresource = ""
        public var namespace = ""
        public var name = ""
        public var path: String
        public var query: [String: String]
        public var accept: String?
        public var contentType: String?
        public var userAgent: String?
        /// The bearer token.
        public var token: String?
        /// Of writes.
        public var body: String?
        /// The HTTP status, once sent; a request that is waiting or whose connection was closed has none.
        public var code: Int?
        public var arrival: ContinuousClock.Instant
    }
}

/// All requests, in the order in which they came.
final class RequestLog: Sendable {
    private let requests = Mutex<[APIDouble.Request]>([])
    private let isOn: Bool

    init(isOn: Bool) { self.isOn = isOn }

    var all: [APIDouble.Request] { requests.withLock { $0 } }

    func clear() { requests.withLock { $0 = [] } }

    /// - Returns: the number by which `answered` knows it.
    func arrived(_ request: APIDouble.Request) -> Int {
        guard isOn else { return -1 }
        return requests.withLock { requests in
            requests.append(request)
            return requests.count - 1
        }
    }

    func answered(_ number: Int, _ code: Int) {
        requests.withLock { requests in
            if requests.indices.contains(number) { requests[number].code = code }
        }
    }
}
