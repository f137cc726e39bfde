import FoundationEssentials
import HashTreeCollections
import KnetCore
import Logging
import NIOHTTP1
import Synchronization

/// Writes onto this node's Node object what other nodes and the scheduler must know, where it is not there already.
final class NodePublisher: Sendable {
    /// What is asked of the Node.
    typealias Wanted = @Sendable (LocalNode) -> [String: String?]

    private let nodeName: String
    private let client: APIClient
    private let store: StateStore
    private let annotations: Wanted
    private let isUp: @Sendable () -> Bool
    private let logger: Logger
    private let shared = Mutex<APIError?>(nil)

    /// Until the server's answer comes back by the watch, it is not asked again.
    private static let patience = Duration.seconds(10)
    /// How often it is looked whether the node is up.
    private static let interval = Duration.milliseconds(500)

    /// - Parameters:
    ///   - annotations: of the Node; `nil` for one that must not be there.
    ///   - isUp: whether pods of this node can be reached.
    init(
        nodeName: String, client: APIClient, store: StateStore, annotations: @escaping Wanted,
        isUp: @escaping @Sendable () -> Bool, logger: Logger
    ) {
        self.nodeName = nodeName
        self.client = client
        self.store = store
        self.annotations = annotations
        self.isUp = isUp
        self.logger = logger
    }

    /// Why the last attempt failed.
    var trouble: APIError? { shared.withLock { $0 } }

    func run() async {
        let (wakes, waker) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        let subscription = store.follow { waker.yield() }
        await withDiscardingTaskGroup { group in
            group.addTask {
                // A node that is not up yet gets up without a change of the cluster's.
                while !Task.isCancelled {
                    // Looked at before the waking: what comes up in between is seen by one of the two.
                    let pause = self.isUp() ? Self.patience : Self.interval
                    waker.yield()
                    try? await Task.sleep(for: pause)
                }
                waker.finish()
            }
            await follow(wakes, subscription)
            group.cancelAll()
        }
    }

    private func follow(_ wakes: AsyncStream<Void>, _ subscription: StateStore.Subscription) async {
        var backoff = Backoff(client.timing.retries)
        var last: (node: Node?, at: ContinuousClock.Instant)?
        for await _ in wakes {
            let state = subscription.take().state
            guard let patch = patch(state) else { continue }
            let node = state.nodes[.node(nodeName)]
            if let last, last.node == node, ContinuousClock.now - last.at < Self.patience { continue }
            do throws(APIError) {
                try await send(patch)
                shared.withLock { $0 = nil }
                last = (node, .now)
                backoff.succeeded()
            } catch {
                if Task.isCancelled { return }
                let isNew = shared.withLock { trouble in
                    defer { trouble = error }
                    return trouble != error
                }
                if isNew {
                    logger.warning("this Node cannot be written", metadata: ["op": "publish", "reason": "\(error)"])
                }
                var wait = Duration.zero
                if case .unable(let seconds?) = error.kind { wait = .seconds(seconds) }
                try? await Task.sleep(for: backoff.failed(atLeast: wait))
            }
        }
    }

    /// What is missing on the Node; `nil` where nothing is, or where the Node is not known as it is now.
    func patch(_ state: ClusterState) -> JSONValue? {
        guard state.isComplete([.node]), let local = state.local, let node = state.nodes[.node(nodeName)] else {
            return nil
        }
        let present = node.metadata.annotations ?? [:]
        let missing = annotations(local).filter { present[$0.key] != $0.value }
        var patch: [String: JSONValue] = [:]
        if !missing.isEmpty {
            patch["metadata"] = ["annotations": .object(missing.mapValues { $0.map(JSONValue.string) ?? .null })]
        }
        let isTold = node.status?.conditions?.contains(Condition(type: Condition.networkUnavailable, status: "False"))
        if isTold != true, isUp() {
            patch["status"] = ["conditions": [.object(["type": .string(Condition.networkUnavailable)])]]
        }
        return patch.isEmpty ? nil : .object(patch)
    }

    /// Annotations may be written by way of the status; a right to write Nodes themselves would be one to change their labels,
    /// taints and ranges too.
    static func request(nodeName: String) -> APIClient.Request {
        APIClient.Request(method: .PATCH, path: "/api/v1/nodes/\(nodeName)/status")
    }

    private func send(_ patch: JSONValue) async throws(APIError) {
        var patch = patch.object ?? [:]
        if patch["status"] != nil {
            let now = JSONValue.string(Date().formatted(.iso8601))
            // Conditions are merged by their type, which only a strategic merge does.
            patch["status"] = [
                "conditions": [
                    [
                        "type": .string(Condition.networkUnavailable), "status": "False", "reason": "KnetdIsUp",
                        "message": "knetd has this node's pod network in force", "lastTransitionTime": now,
                        "lastHeartbeatTime": now,
                    ]
                ]
            ]
        }
        var request = Self.request(nodeName: nodeName)
        request.contentType = MediaType.strategicMerge
        request.body = Array(JSONValue.object(patch).text().utf8)
        _ = try await client.bytes(request)
        logger.info(
            "this Node was written",
            metadata: ["op": "publish", "what": "\(patch.keys.sorted().joined(separator: ","))"])
    }
}
