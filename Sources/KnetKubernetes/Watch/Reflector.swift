import AsyncHTTPClient
import KnetCore
import Logging
import NIOCore
import Synchronization

/// Receives what a reflector learns, in order.
protocol ReflectorSink: Sendable {
    func changed(_ kind: ObjectKey.Kind, set: [AnyClusterObject], removed: [ObjectKey])

    /// All that there is has been told; what is not in `keys` is gone.
    func told(_ kind: ObjectKey.Kind, all keys: Set<ObjectKey>)
}

/// Follows the objects of one kind: lists them, watches them, and begins anew where history was lost.
final class Reflector: Sendable {
    /// What status and metrics say of it.
    struct Report {
        /// Whether the list was read and its watch goes on.
        var isLive = false
        /// Why not.
        var trouble: APIError?
        /// When the server was last heard.
        var heard: ContinuousClock.Instant?
        var revision: String?
        var lists = 0
        var watches = 0
        var events = 0
    }

    let resource: Resource
    private let client: APIClient
    private let sink: any ReflectorSink
    private let recovery: Recovery
    private let logger: Logger
    private let shared = Mutex(Report())

    /// Objects in one part of a list, as kube-controller-manager asks for them.
    private static let pageSize = 500

    init(_ resource: Resource, client: APIClient, sink: any ReflectorSink, recovery: Recovery, logger: Logger) {
        self.resource = resource
        self.client = client
        self.sink = sink
        self.recovery = recovery
        self.logger = logger
    }

    var report: Report { shared.withLock { $0 } }

    /// A stream that ended sooner did not end because its time was over.
    private var shortest: Duration { .seconds(client.timing.watchSeconds.lowerBound) * 0.95 }

    /// What is known between two connections.
    private struct Progress {
        var reader: ObjectReader
        /// The last moment of the server's history that is known; `nil` before the first list.
        var revision: String?
        /// Whether the server is asked to stream the list; one that refuses is not asked again.
        var streamsList = true
        /// Whether the server may be another one, with another history.
        var isDoubtful = false
        /// Whether the last attempt ended because history was gone.
        var expired = false
        /// Whether the server does not have the kind.
        var isAbsent = false
        /// Told in this list so far; `nil` where no list is being read.
        var listed: Set<ObjectKey>?

        /// Notes how far an event brings us.
        /// - Returns: whether it is news; history only goes forward, so what does not is told once more.
        mutating func takes(_ told: ToldObject) -> Bool {
            if listed != nil {
                listed?.insert(told.object.key)
                return true
            }
            if let known = revision.flatMap({ UInt64($0) }), let theirs = UInt64(told.revision), theirs <= known {
                return false
            }
            revision = told.revision
            return true
        }
    }

    /// Follows until the task is cancelled.
    func run() async {
        var progress = Progress(reader: ObjectReader(resource.kind))
        var backoff = Backoff(client.timing.retries)
        while !Task.isCancelled {
            let events = report.events
            let began = ContinuousClock.now
            do throws(APIError) {
                try await turn(&progress)
                progress.isDoubtful = ContinuousClock.now - began < shortest
                progress.expired = false
                backoff.succeeded()
                // A server that ends every stream at once is not to be asked without end.
                if progress.isDoubtful, report.events == events { await pause(backoff.failed()) }
            } catch {
                if Task.isCancelled { return }
                await recover(from: error, &progress, &backoff)
            }
        }
    }

    private func recover(from error: APIError, _ progress: inout Progress, _ backoff: inout Backoff) async {
        progress.listed = nil
        switch error.kind {
        case .expired:
            // Not a fault: what was missed is listed. Only where that happens again and again the server is spared.
            logger.info("history is gone; listing again", metadata: metadata(reason: error.cause))
            progress.revision = nil
            if progress.expired { await pause(backoff.failed()) } else { backoff.succeeded() }
            progress.expired = true
            return
        case .refused where progress.streamsList:
            progress.streamsList = false
            return
        case .notServed where resource.isCustom:
            backoff.succeeded()
            await missing(&progress)
            return
        case .unreachable, .broken: progress.isDoubtful = true
        default: break
        }
        recovery.failed("\(error)", metadata: metadata())
        note { report in
            report.trouble = error
            report.isLive = false
        }
        switch error.kind {
        case .unreachable, .broken: await recovery.wait(atMost: backoff.failed())
        case .unable(let seconds): await pause(backoff.failed(atLeast: .seconds(seconds ?? 0)))
        default: await pause(backoff.failed())
        }
    }

    /// The server does not have the kind. That is no fault where its definition need not be installed: there are no objects of
    /// it.
    private func missing(_ progress: inout Progress) async {
        if progress.revision != nil {
            // It had. One that only just starts may say the same, so it is asked once more before all objects are gone.
            progress.revision = nil
            return await pause(client.timing.retries.upperBound)
        }
        if !progress.isAbsent {
            logger.info("the API server does not have the kind; asking now and then", metadata: metadata())
        }
        progress.isAbsent = true
        sink.told(resource.kind, all: [])
        note { report in
            report.isLive = true
            report.trouble = nil
            report.heard = .now
            report.revision = nil
        }
        await pause(client.timing.absence * Double.random(in: 0.75...1))
    }

    private func pause(_ time: Duration) async { try? await Task.sleep(for: time) }

    private func metadata(reason: String? = nil) -> Logger.Metadata {
        var metadata: Logger.Metadata = ["op": "watch", "kind": "\(resource.kind.rawValue)"]
        if let reason { metadata["reason"] = "\(reason)" }
        return metadata
    }

    private func note(_ change: (inout Report) -> Void) { shared.withLock { change(&$0) } }

    // MARK: One connection

    /// Lists where that is needed, then watches until the stream ends.
    private func turn(_ progress: inout Progress) async throws(APIError) {
        if progress.isDoubtful, let revision = progress.revision, try await isBehind(revision) {
            throw APIError(.expired, "the server's history ends before \(revision): it is another one")
        }
        if progress.revision == nil, !progress.streamsList { try await list(&progress) }
        try await watch(&progress)
    }

    private func request(_ query: [(String, String)], isWatch: Bool = false) -> APIClient.Request {
        var request = APIClient.Request(path: resource.path)
        if let selector = resource.fieldSelector { request.query.append(("fieldSelector", selector)) }
        request.query += query
        let protobuf = isWatch ? MediaType.protobufWatch : MediaType.protobuf
        request.accept = resource.isProtobuf ? protobuf : MediaType.json
        return request
    }

    /// Whether the server's history ends before ours does. That of a server that lost its memory would let a watch wait for
    /// a moment that is long past.
    private func isBehind(_ revision: String) async throws(APIError) -> Bool {
        let answer = try await client.bytes(request([("limit", "1")]))
        var reader = ObjectReader(resource.kind)
        let page = try ListPage(answer.body, isProtobuf: answer.isProtobuf, &reader)
        guard let theirs = UInt64(page.revision), let ours = UInt64(revision) else { return false }
        return theirs < ours
    }

    private func list(_ progress: inout Progress) async throws(APIError) {
        note { $0.lists += 1 }
        do throws(APIError) {
            try await list(&progress, limit: Self.pageSize)
        } catch  where error.kind == .expired {
            // The parts took longer than history is kept: all at once, then.
            try await list(&progress, limit: nil)
        }
    }

    private func list(_ progress: inout Progress, limit: Int?) async throws(APIError) {
        progress.listed = []
        var next: String?
        var revision = ""
        repeat {
            var query = limit.map { [("limit", "\($0)")] } ?? []
            if let next { query.append(("continue", next)) }
            let answer = try await client.bytes(request(query))
            let page = try ListPage(answer.body, isProtobuf: answer.isProtobuf, &progress.reader)
            for fault in page.faults { logger.warning("object skipped", metadata: metadata(reason: fault)) }
            for told in page.objects { progress.listed?.insert(told.object.key) }
            sink.changed(resource.kind, set: page.objects.map(\.object), removed: [])
            next = page.next
            revision = page.revision
        } while next != nil
        complete(&progress, revision: revision)
    }

    private func complete(_ progress: inout Progress, revision: String) {
        let keys = progress.listed ?? []
        progress.listed = nil
        progress.isAbsent = false
        progress.revision = revision
        sink.told(resource.kind, all: keys)
        live(revision)
    }

    private func live(_ revision: String?) {
        recovery.succeeded()
        note { report in
            report.isLive = true
            report.trouble = nil
            report.heard = .now
            report.revision = revision
        }
    }

    private func watch(_ progress: inout Progress) async throws(APIError) {
        var query = [
            ("watch", "true"), ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", "\(Int.random(in: client.timing.watchSeconds))"),
        ]
        if let revision = progress.revision {
            query.append(("resourceVersion", revision))
        } else {
            query += [("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")]
            progress.listed = []
            note { $0.lists += 1 }
        }
        let response = try await client.answer(request(query, isWatch: true))
        note { $0.watches += 1 }
        if let revision = progress.revision { live(revision) }
        var stream = WatchStream(isProtobuf: response.isProtobuf)
        var body = response.body.makeAsyncIterator()
        while true {
            let chunk: ByteBuffer?
            do {
                chunk = try await body.next()
            } catch {
                if Task.isCancelled { return }
                throw APIError(.broken, Self.reason(error))
            }
            guard let chunk else { break }
            stream.append(chunk)
            try take(&stream, &progress)
        }
        guard stream.isAtBoundary, progress.listed == nil else {
            throw APIError(.broken, "the watch broke off")
        }
    }

    private static func reason(_ error: any Error) -> String {
        if error as? HTTPClientError == .readTimeout { return "the watch fell silent" }
        return "the watch broke off (\(error))"
    }

    /// Hands on all events that are whole as one change.
    private func take(_ stream: inout WatchStream, _ progress: inout Progress) throws(APIError) {
        var batch = Batch()
        // What was read before an error counts.
        defer { batch.hand(to: sink, resource.kind) }
        while let event = try stream.next(&progress.reader) {
            note {
                $0.events += 1
                $0.heard = .now
            }
            switch event {
            case .set(let told):
                guard progress.takes(told) else { continue }
                batch.set(told.object)
            case .removed(let told):
                guard progress.takes(told) else { continue }
                progress.listed?.remove(told.object.key)
                batch.remove(told.object.key)
            case .bookmark(let revision, let endsInitialEvents):
                if progress.listed == nil {
                    try check(revision, after: progress.revision)
                    progress.revision = revision
                } else if endsInitialEvents {
                    batch.hand(to: sink, resource.kind)
                    complete(&progress, revision: revision)
                }
            case .error(let status): throw Self.error(status, isList: progress.listed != nil)
            }
        }
        note { $0.revision = progress.revision }
    }

    private func check(_ revision: String, after ours: String?) throws(APIError) {
        guard let theirs = UInt64(revision), let ours = ours.flatMap({ UInt64($0) }), theirs < ours else { return }
        throw APIError(.expired, "the server is at \(theirs), before \(ours): it is another one")
    }

    private static func error(_ status: StatusMessage, isList: Bool) -> APIError {
        switch status.code {
        // An API server on an etcd that is too old to stream lists says so only here.
        case 500 where isList: APIError(.refused, status.message)
        case 410: APIError(.expired, status.message)
        case 504 where status.message.contains("Too large resource version"): APIError(.expired, status.message)
        case 429, 500...: APIError(.unable(retryAfter: status.retryAfter), status.message)
        default: APIError(.broken, "the watch ended with \(status.code): \(status.message)")
        }
    }
}

/// Changes of one kind that are handed on together; of several of one object the last counts.
private struct Batch {
    private var changes: [ObjectKey: AnyClusterObject?] = [:]

    mutating func set(_ object: AnyClusterObject) { changes[object.key] = .some(object) }
    mutating func remove(_ key: ObjectKey) { changes[key] = .some(nil) }

    mutating func hand(to sink: any ReflectorSink, _ kind: ObjectKey.Kind) {
        guard !changes.isEmpty else { return }
        var set: [AnyClusterObject] = []
        var removed: [ObjectKey] = []
        for (key, object) in changes {
            if let object { set.append(object) } else { removed.append(key) }
        }
        changes = [:]
        sink.changed(kind, set: set, removed: removed)
    }
}
