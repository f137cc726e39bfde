import FoundationEssentials
import KnetCore
import NIOCore
import NIOHTTP1

/// One request, understood, and its line in the log.
struct Call: Sendable {
    let exchange: Exchange
    let target: Target
    /// As RBAC names it.
    let verb: String
    /// Whether the body of a list ends too early.
    var isTruncated = false
    private let number: Int
    private let log: RequestLog

    init(exchange: Exchange, target: Target, path: ResourcePath?, log: RequestLog) {
        self.exchange = exchange
        self.target = target
        self.log = log
        verb = Self.verb(exchange.head.method, path, target.query)
        var request = APIDouble.Request(path: exchange.head.uri, query: target.query, arrival: .now)
        if let path {
            request.verb = verb
            request.apiGroup = path.resource.group
            request.resource = path.resource.plural
            request.subresource = path.subresource
            request.namespace = path.namespace
            request.name = path.name
        }
        request.accept = exchange.header("accept")
        request.contentType = exchange.header("content-type")
        request.userAgent = exchange.header("user-agent")
        request.token = exchange.bearerToken
        request.body = exchange.body.readableBytes > 0 ? String(buffer: exchange.body) : nil
        number = log.arrived(request)
    }

    private static func verb(_ method: HTTPMethod, _ path: ResourcePath?, _ query: [String: String]) -> String {
        switch method {
        case .GET:
            let isWatch = query["watch"].map { $0 != "0" && $0.lowercased() != "false" } ?? false
            return isWatch ? "watch" : path?.name.isEmpty ?? true ? "list" : "get"
        case .POST: return "create"
        case .PUT: return "update"
        case .PATCH: return "patch"
        case .DELETE: return path?.name.isEmpty ?? true ? "deletecollection" : "delete"
        default: return method.rawValue.lowercased()
        }
    }

    /// The media type of the body, without parameters.
    var contentType: String {
        String((exchange.header("content-type") ?? "").split(separator: ";").first?.trimmingSpaces ?? "")
    }

    func format(_ path: ResourcePath) throws(Status) -> Format {
        try Negotiation.format(accept: exchange.header("accept"), for: path.resource)
    }

    /// The body.
    /// - Throws: 400 where it is no JSON.
    func json() throws(Status) -> JSONValue {
        do {
            return try JSONValue(parsing: Data(exchange.body.readableBytesView))
        } catch {
            throw .badRequest("the body of the request is \(error)")
        }
    }

    /// The body as an object of the resource that the path names.
    func object(_ path: ResourcePath) throws(Status) -> JSONValue {
        guard contentType.isEmpty || contentType == "application/json" else {
            throw .unsupportedMediaType(["application/json"])
        }
        let object = try json()
        guard object["kind"]?.string == path.resource.kind,
            object["apiVersion"]?.string == path.resource.apiVersion
        else {
            throw .badRequest(
                "\(object["kind"]?.string ?? "") in version \"\(object["apiVersion"]?.string ?? "")\" cannot be handled "
                    + "as a \(path.resource.kind)")
        }
        return object
    }

    func begin(_ code: Int, contentType: String) {
        log.answered(number, code)
        exchange.begin(code, contentType: contentType, length: nil)
    }

    func answer(_ status: Status) {
        log.answered(number, status.code)
        exchange.answer(status)
    }

    func answer(_ code: Int, text: String, headers: [(String, String)] = []) {
        log.answered(number, code)
        exchange.answer(code, text: text, headers: headers)
    }

    func answer(_ code: Int, _ object: StoredObject, _ format: Format) {
        answer(code, format, format.encode(object))
    }

    func answer(_ code: Int, _ format: Format, _ object: [UInt8]) {
        var body = ByteBuffer(bytes: object)
        if format == .json { body.writeString("\n") }
        log.answered(number, code)
        exchange.answer(code, contentType: format.contentType, body)
    }

    /// Answers with a list.
    func answer(_ code: Int, _ format: Format, _ list: ByteBuffer) {
        log.answered(number, code)
        guard isTruncated else { return exchange.answer(code, contentType: format.contentType, list) }
        exchange.begin(code, contentType: format.contentType, length: list.readableBytes)
        exchange.write(list.getSlice(at: list.readerIndex, length: list.readableBytes / 2) ?? list)
        exchange.endAbruptly(.close)
    }
}

extension Exchange {
    var bearerToken: String? {
        guard let value = header("authorization"), value.hasPrefix("Bearer ") else { return nil }
        return String(value.dropFirst("Bearer ".count))
    }
}
