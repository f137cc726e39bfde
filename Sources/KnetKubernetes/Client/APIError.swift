/// Why the API server does not give what was asked: the cause, and what to do about it.
struct APIError: Error, Hashable, CustomStringConvertible {
    enum Kind: Hashable, Sendable {
        /// The kubeconfig, the service account or what they name cannot be used.
        case access
        /// No server answers, or what answers is none.
        case unreachable
        /// The connection cannot be trusted.
        case untrusted
        /// 401.
        case unauthorized
        /// 403.
        case forbidden
        /// 404: this server does not have the kind.
        case notServed
        /// 409: the object is there already, or another version of it.
        case conflict
        /// 410: the history that was asked for is gone.
        case expired
        /// 400, 406 or 422: the server does not take the request.
        case refused
        /// 429, and 5xx; whether it is the server's wish to be left alone, for so many seconds.
        case unable(retryAfter: Int?)
        /// What it sent cannot be understood, or it fell silent.
        case broken
    }

    let kind: Kind
    let cause: String
    let remedy: String?

    init(_ kind: Kind, _ cause: String, remedy: String? = nil) {
        self.kind = kind
        self.cause = cause
        self.remedy = remedy
    }

    var description: String { remedy.map { "\(cause); \($0)" } ?? cause }
}
