import FoundationEssentials
import Glibc
import KnetCore
import Logging
import NIOCore
import NIOHTTP1
import Synchronization

/// Takes part in an election until the task is cancelled; then it lets go of the Lease.
final class LeaseHolder: Sendable {
    private let client: APIClient
    private let path: String
    private let name: String
    private let logger: Logger
    private let shared: Mutex<LeaseElection>
    private let fault = Mutex<APIError?>(nil)

    init(_ election: LeaseElection, namespace: String, name: String, client: APIClient, logger: Logger) {
        shared = Mutex(election)
        path = "/apis/coordination.k8s.io/v1/namespaces/\(namespace)/leases"
        self.name = name
        self.client = client
        self.logger = logger
    }

    /// One process of a node after another has an identity of its own: what an earlier one was doing is not known.
    convenience init(
        _ settings: Configuration.Cluster.Kubernetes, nodeName: String, client: APIClient, logger: Logger
    ) {
        let identity = "\(nodeName)_\(String(UInt64.random(in: 0...UInt64.max), radix: 16))"
        self.init(
            LeaseElection(identity: identity, seconds: settings.leaseSeconds), namespace: settings.leaseNamespace,
            name: "knetd", client: client, logger: logger)
    }

    /// Whether this process is elected for as long as a request may take.
    var isElected: Bool { shared.withLock { $0.heldUntil.map { $0 > .now } ?? false } }
    var elected: String? { shared.withLock { $0.holder } }
    /// Why the last look at the Lease failed.
    var trouble: APIError? { fault.withLock { $0 } }

    func run() async {
        var backoff = Backoff(client.timing.retries)
        while !Task.isCancelled {
            let was = isElected
            do {
                try await look()
                fault.withLock { $0 = nil }
                backoff.succeeded()
                try? await Task.sleep(for: shared.withLock { $0.interval } * Double.random(in: 0.9...1))
            } catch {
                if Task.isCancelled { break }
                let isNew = fault.withLock { known in
                    defer { known = error }
                    return known != error
                }
                if isNew {
                    logger.warning("the Lease cannot be renewed", metadata: ["op": "lease", "reason": "\(error)"])
                }
                try? await Task.sleep(for: min(backoff.failed(), shared.withLock { $0.interval }))
            }
            if was != isElected {
                logger.notice(
                    was ? "another knetd writes for the cluster now" : "this knetd writes for the cluster now",
                    metadata: ["op": "lease", "holder": "\(elected ?? "nobody")"])
            }
        }
        // The task is cancelled, the requests of this one are not.
        await Task { await self.release() }.value
    }

    private func look() async throws(APIError) {
        let lease = try await read(patience: patience)
        let now = ContinuousClock.now
        switch shared.withLock({ $0.next(lease, now: now, time: MicroTime.now) }) {
        case .wait: shared.withLock { $0.lost() }
        case .create(let lease): try await write(.POST, path, named(lease), since: now)
        case .replace(let lease): try await write(.PUT, "\(path)/\(name)", lease, since: now)
        }
    }

    private func named(_ lease: JSONValue) -> JSONValue {
        var object = lease.object ?? [:]
        object["metadata"] = ["name": .string(name)]
        return .object(object)
    }

    private func read(patience: Duration) async throws(APIError) -> JSONValue? {
        var request = APIClient.Request(path: "\(path)/\(name)")
        request.patience = patience
        let body: ByteBuffer
        do {
            body = try await client.bytes(request).body
        } catch {
            if error.kind == .notServed { return nil }
            throw error
        }
        guard let lease = try? JSONValue(parsing: Data(body.readableBytesView)) else {
            throw APIError(.broken, "the Lease \(name) cannot be read")
        }
        return lease
    }

    private func write(
        _ method: HTTPMethod, _ path: String, _ lease: JSONValue, since: ContinuousClock.Instant
    ) async throws(APIError) {
        var request = APIClient.Request(method: method, path: path)
        request.contentType = MediaType.json
        request.body = Array(lease.text().utf8)
        request.patience = patience
        do {
            _ = try await client.bytes(request)
            shared.withLock { $0.won(since: since) }
        } catch {
            // Another was faster; the next look tells who.
            guard error.kind == .conflict else { throw error }
            shared.withLock { $0.lost() }
        }
    }

    /// A request that takes longer would come too late.
    private var patience: Duration { .seconds(shared.withLock { $0.seconds }) / 3 }

    private func release() async {
        guard isElected, let lease = try? await read(patience: .milliseconds(500)),
            let released = shared.withLock({ $0.released(lease, time: MicroTime.now) })
        else { return }
        var request = APIClient.Request(method: .PUT, path: "\(path)/\(name)")
        request.contentType = MediaType.json
        request.body = Array(released.text().utf8)
        request.patience = .milliseconds(500)
        shared.withLock { $0.lost() }
        _ = try? await client.bytes(request)
    }
}

/// Times as metav1.MicroTime has them.
enum MicroTime {
    /// Since 1970.
    static var nanoseconds: UInt64 {
        let time = clock()
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    private static func clock() -> timespec {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return time
    }

    static var now: String {
        let time = clock()
        let seconds = Date(timeIntervalSince1970: Double(time.tv_sec)).formatted(.iso8601).dropLast()
        let micro = String(time.tv_nsec / 1000)
        return "\(seconds).\(String(repeating: "0", count: 6 - micro.count))\(micro)Z"
    }
}
