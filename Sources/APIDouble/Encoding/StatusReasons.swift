/// The errors of k8s.io/apimachinery/pkg/api/errors and k8s.io/apiserver/pkg/storage, word for word.
extension Status {
    static let unauthorized = Status(401, "Unauthorized", "Unauthorized")

    static func forbidden(_ verb: String, _ resource: Resource, namespace: String, name: String) -> Status {
        let scope = namespace.isEmpty ? "at the cluster scope" : "in the namespace \"\(namespace)\""
        let subject = name.isEmpty ? resource.name : "\(resource.name) \"\(name)\""
        return Status(
            403, "Forbidden",
            "\(subject) is forbidden: User \"system:serviceaccount:kube-system:knetd\" cannot \(verb) resource "
                + "\"\(resource.plural)\" in API group \"\(resource.group)\" \(scope)"
        ).about(resource, name)
    }

    static func notFound(_ resource: Resource, _ name: String) -> Status {
        Status(404, "NotFound", "\(resource.name) \"\(name)\" not found").about(resource, name)
    }

    static let unknownResource = Status(404, "NotFound", "the server could not find the requested resource")

    static func methodNotAllowed(_ resource: Resource, _ action: String) -> Status {
        Status(405, "MethodNotAllowed", "\(action) is not supported on resources of kind \"\(resource.name)\"")
            .about(resource, "")
    }

    static func notAcceptable(_ types: [String]) -> Status {
        Status(
            406, "NotAcceptable",
            "only the following media types are accepted: \(types.joined(separator: ", "))")
    }

    static func alreadyExists(_ resource: Resource, _ name: String) -> Status {
        Status(409, "AlreadyExists", "\(resource.name) \"\(name)\" already exists").about(resource, name)
    }

    static func conflict(_ resource: Resource, _ name: String) -> Status {
        Status(
            409, "Conflict",
            "Operation cannot be fulfilled on \(resource.name) \"\(name)\": the object has been modified; please apply "
                + "your changes to the latest version and try again"
        ).about(resource, name)
    }

    static func expired(_ message: String) -> Status { Status(410, "Expired", message) }

    static func unsupportedMediaType(_ types: [String]) -> Status {
        Status(
            415, "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: "
                + types.joined(separator: ", "))
    }

    /// - Parameter faults: fields and what is wrong with them, as `field.Error.ErrorBody()` has it.
    static func invalid(group: String, kind: String, name: String = "", _ faults: [Cause]) -> Status {
        let texts = faults.map { "\($0.field): \($0.message)" }
        let list = texts.count == 1 ? texts.joined() : "[\(texts.joined(separator: ", "))]"
        var status = Status(
            422, "Invalid", "\(group.isEmpty ? kind : "\(kind).\(group)") \"\(name)\" is invalid: \(list)")
        status.group = group
        status.kind = kind
        status.name = name
        status.causes = faults
        return status
    }

    static func badRequest(_ message: String) -> Status { Status(400, "BadRequest", message) }

    static func tooManyRequests(seconds: Int) -> Status {
        var status = Status(429, "TooManyRequests", "storage is (re)initializing")
        status.retryAfterSeconds = seconds
        return status
    }

    static func internalError(_ message: String) -> Status {
        var status = Status(500, "InternalError", "Internal error occurred: \(message)")
        status.causes = [Cause(type: "", message: message)]
        return status
    }

    static let unavailable = Status(503, "ServiceUnavailable", "apiserver is shutting down.")

    static func tooLarge(_ wanted: Int, current: Int) -> Status {
        var status = Status(
            504, "Timeout", "Timeout: Too large resource version: \(wanted), current: \(current)")
        status.retryAfterSeconds = 1
        status.causes = [Cause(type: "ResourceVersionTooLarge", message: "Too large resource version")]
        return status
    }

    private func about(_ resource: Resource, _ name: String) -> Status {
        var status = self
        status.group = resource.group
        status.kind = resource.plural
        status.name = name
        return status
    }
}
