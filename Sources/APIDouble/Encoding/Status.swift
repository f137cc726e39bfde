import KnetCore

/// An error as the API server tells it: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
struct Status: Error, Sendable, Hashable {
    struct Cause: Sendable, Hashable {
        /// JSON calls this `reason`.
        var type: String
        var message: String
        var field: String

        init(type: String, message: String, field: String = "") {
            self.type = type
            self.message = message
            self.field = field
        }
    }

    var code: Int
    var reason: String
    var message: String
    /// The subject: a resource and the object's name, or a kind for what is invalid.
    var group = ""
    var kind = ""
    var name = ""
    var causes: [Cause] = []
    var retryAfterSeconds = 0
    /// With 410 of a list's page: a token that goes on with the present state.
    var continueToken = ""

    init(_ code: Int, _ reason: String, _ message: String) {
        self.code = code
        self.reason = reason
        self.message = message
    }

    /// As Kubernetes JSON.
    var json: JSONValue {
        var details: [String: JSONValue] = [:]
        for (key, text) in [("name", name), ("group", group), ("kind", kind)] where !text.isEmpty {
            details[key] = .string(text)
        }
        if retryAfterSeconds > 0 { details["retryAfterSeconds"] = .integer(retryAfterSeconds) }
        if !causes.isEmpty { details["causes"] = .array(causes.map(\.json)) }
        var status: [String: JSONValue] = [
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "message": .string(message),
            "reason": .string(reason), "code": .integer(code),
            "metadata": .object(continueToken.isEmpty ? [:] : ["continue": .string(continueToken)]),
        ]
        if !details.isEmpty { status["details"] = .object(details) }
        return .object(status)
    }
}

extension Status.Cause {
    fileprivate var json: JSONValue {
        var members: [String: JSONValue] = [:]
        for (key, text) in [("reason", type), ("message", message), ("field", field)] where !text.isEmpty {
            members[key] = .string(text)
        }
        return .object(members)
    }
}
