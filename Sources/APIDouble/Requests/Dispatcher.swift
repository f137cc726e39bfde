import FoundationEssentials
import KnetCore
import NIOCore
import NIOHTTP1
import Synchronization

/// Decides what each request is answered.
final class Dispatcher: Sendable {
    let options: APIDouble.Options
    let store: ObjectStore
    let faults: FaultInjector
    let log: RequestLog
    let watches = WatchCount()
    let table = Mutex(ResourceTable())
    let tokens: Mutex<Set<String>?>

    init(_ options: APIDouble.Options) {
        self.options = options
        faults = FaultInjector()
        store = ObjectStore(revision: options.revision, seed: 1, faults: faults)
        log = RequestLog(isOn: options.logsRequests)
        tokens = Mutex(options.tokens)
    }

    /// Answers, now or later. On the connection's event loop.
    func handle(_ exchange: Exchange) {
        let target = Target(uri: exchange.head.uri)
        let parsed = Result { () throws(Status) in
            try table.withLock { table throws(Status) in try table.parse(target.path) }
        }
        var call = Call(exchange: exchange, target: target, path: (try? parsed.get()) ?? nil, log: log)
        if answerOutsideTheAPI(call) { return }
        guard isAuthentic(exchange) else { return call.answer(.unauthorized) }
        if let discovery = table.withLock({ $0.discovery(target.path) }) {
            return call.answer(200, Format.json, JSONWriter.text(of: discovery))
        }
        guard case .success(let path) = parsed else { return call.answer(.unknownResource) }
        let present = faults.faults
        guard let path, !present.unknown.contains(path.resource.name) else {
            return call.answer(404, text: "404 page not found\n")
        }
        if present.forbidden.contains(path.resource.name) {
            return call.answer(
                .forbidden(call.verb, path.resource, namespace: path.namespace, name: path.name))
        }
        switch faults.requestFault() {
        case nil: serve(call, path)
        case .tooManyRequests: refuse(call, 429)
        case .serverError: refuse(call, 500)
        case .unavailable: refuse(call, 503)
        case .noAnswer: exchange.endUnanswered(.close)
        case .truncatedList:
            call.isTruncated = true
            serve(call, path)
        case .delay:
            let longest = present.longestDelay.timeAmount.nanoseconds
            let delay = TimeAmount.nanoseconds(longest / 100 * Int64(faults.number(in: 1...100)))
            exchange.channel.eventLoop.scheduleTask(in: delay) { [call] in self.serve(call, path) }
        }
    }

    private func isAuthentic(_ exchange: Exchange) -> Bool {
        guard let accepted = tokens.withLock({ $0 }) else { return true }
        return exchange.hasClientCertificate || exchange.bearerToken.map(accepted.contains) ?? false
    }

    /// As the server itself refuses it, or as priority and fairness or a proxy in front of it does.
    private func refuse(_ call: Call, _ code: Int) {
        let seconds = faults.faults.retryAfterSeconds
        let isText = faults.number(in: 0...1) == 0
        switch (code, isText) {
        case (429, true):
            call.answer(
                429, text: "Too many requests, please try again later.\n", headers: [("Retry-After", "\(seconds)")])
        case (429, false): call.answer(.tooManyRequests(seconds: seconds))
        case (500, false): call.answer(.internalError("etcdserver: request timed out"))
        case (503, false): call.answer(.unavailable)
        case (_, _): call.answer(code, text: "upstream connect error or disconnect/reset before headers")
        }
    }

    private func serve(_ call: Call, _ path: ResourcePath) {
        do throws(Status) {
            switch call.verb {
            case "get", "list", "watch": try read(call, path)
            default: try write(call, path)
            }
        } catch {
            call.answer(error)
        }
    }

    private func write(_ call: Call, _ path: ResourcePath) throws(Status) {
        let writes = Writes(store: store)
        let isCollection = path.name.isEmpty
        switch call.verb {
        case "create" where isCollection:
            call.answer(201, try writes.create(path, try call.object(path)), try call.format(path))
        case "update" where !isCollection:
            call.answer(200, try writes.replace(path, try call.object(path)), try call.format(path))
        case "patch" where !isCollection:
            let accepted = Patch.accepted(by: path.resource)
            guard let kind = accepted.first(where: { $0.rawValue == call.contentType }) else {
                throw .unsupportedMediaType(accepted.map(\.rawValue))
            }
            call.answer(200, try writes.patch(path, kind, try call.json()), try call.format(path))
        case "delete" where !isCollection:
            let last = try writes.delete(path)
            call.answer(200, Format.json, JSONWriter.text(of: .deletion(of: last)))
        default: throw .methodNotAllowed(path.resource, call.verb)
        }
    }

    private func answerOutsideTheAPI(_ call: Call) -> Bool {
        switch call.target.path.first {
        case "healthz", "livez", "readyz": call.answer(200, text: "ok")
        case "version":
            let version: [String: JSONValue] = [
                "major": "1", "minor": "36", "gitVersion": "v1.36.0",
                "platform": "linux/amd64",
            ]
            call.answer(200, Format.json, JSONWriter.text(of: .object(version)))
        default: return false
        }
        return true
    }
}

extension JSONValue {
    fileprivate static func deletion(of object: StoredObject) -> JSONValue {
        .object([
            "kind": "Status", "apiVersion": "v1", "metadata": .object([:]),
            "status": "Success",
            "details": .object([
                "name": .string(object.key.name), "kind": .string(object.resource.plural),
                "uid": object.json.at("metadata", "uid") ?? "",
            ]),
        ])
    }
}
