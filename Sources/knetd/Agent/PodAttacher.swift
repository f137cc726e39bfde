import FoundationEssentials
import HashTreeCollections
import KnetCore
import KnetDataplane
import KnetLinux
import Logging
import Synchronization

/// Answers what the CNI mode asks. Every command can be repeated: what is done already is found done.
final class PodAttacher: Sendable {
    private let allocations: AllocationStore
    private let pool: NetlinkPool
    private let metrics: CNIMetrics
    private let logger: Logger
    private let queue: DelQueue
    /// Attachments that a request is working on.
    private let busy = Mutex<Set<AttachmentID>>([])

    init(
        allocations: AllocationStore, queue: DelQueue, pool: NetlinkPool, metrics: CNIMetrics, logger: Logger
    ) {
        self.queue = queue
        self.allocations = allocations
        self.pool = pool
        self.metrics = metrics
        self.logger = logger
    }

    func handle(_ request: CNIRequest, namespace: NetworkNamespace?, in generation: Generation) async -> AgentReply {
        let start = ContinuousClock.now
        func finish(_ body: JSONValue?, _ error: CNIError?) -> AgentReply {
            metrics.record(request, seconds: (ContinuousClock.now - start) / .seconds(1), error: error)
            return AgentReply(succeeded: error == nil, body: body)
        }
        do {
            let body = try await exclusively(request) {
                try await self.perform(request, namespace: namespace, in: generation)
            }
            return finish(body, nil)
        } catch {
            let error = Self.cniError(error)
            logger.warning(
                "CNI request failed",
                metadata: [
                    "op": "\(request.command.rawValue)", "container": "\(request.id)", "reason": "\(error)",
                ])
            return finish(error.json(version: request.version), error)
        }
    }

    private func perform(
        _ request: CNIRequest, namespace: NetworkNamespace?, in generation: Generation
    ) async throws -> JSONValue? {
        try request.check()
        switch request.command {
        case .add: return try await add(request, namespace: namespace, in: generation)
        case .del:
            try await detach(request.id, in: generation)
            return nil
        case .check:
            try await check(request, namespace: namespace, in: generation)
            return nil
        case .gc:
            try await collectGarbage(request, in: generation)
            return nil
        case .status:
            let obstacles = generation.obstacles
            guard obstacles.isEmpty else {
                throw CNIError(.unavailable, "knetd is not ready", details: obstacles.joined(separator: "; "))
            }
            return nil
        case .version: return CNIVersion.report(for: request.version.rawValue)
        }
    }

    // MARK: ADD

    private func add(
        _ request: CNIRequest, namespace: NetworkNamespace?, in generation: Generation
    ) async throws -> JSONValue {
        let obstacles = generation.obstacles
        guard obstacles.isEmpty, let dataplane = generation.dataplane, let local = generation.state.current.local else {
            throw CNIError(.tryAgainLater, "knetd is not ready", details: obstacles.joined(separator: "; "))
        }
        guard let namespace, NetworkNamespace.isNamespace(namespace.number) else {
            throw CNIError(.invalidEnvironment, "CNI_NETNS \(request.namespacePath) is not a network namespace")
        }
        let cookie = try await blocking { try namespace.cookie() }
        let own = try await blocking { try NetworkNamespace.current().cookie() }
        guard cookie != own else {
            throw CNIError(
                .invalidEnvironment, "CNI_NETNS \(request.namespacePath) is this node's own namespace",
                details: "a pod in the host's network needs no CNI")
        }
        try await undoEarlier(request, cookie: cookie, in: generation)

        let mtu = Dictionary(
            uniqueKeysWithValues: local.podCIDRs.map { ($0.family, dataplane.podMTU($0.family, local: local)) })
        let attachment = try await blocking { [allocations] in
            try allocations.reserve(
                Attachment(
                    id: request.id, network: request.network, podNamespace: request.arguments["K8S_POD_NAMESPACE"],
                    podName: request.arguments["K8S_POD_NAME"], namespacePath: request.namespacePath,
                    namespaceCookie: cookie), from: local.podCIDRs.map(AddressRange.init))
        }
        let link = PodLink(attachment: attachment, mtu: mtu)
        do {
            try await blocking { [pool] in try link.create(in: namespace, pool: pool) }
            try await putInForce(attachment, in: generation)
            try await blocking { [allocations] in try allocations.complete(attachment.id) }
        } catch {
            try? await detach(attachment.id, in: generation)
            throw error
        }
        logger.info(
            "pod attached",
            metadata: [
                "op": "ADD", "pod": "\(attachment.title)", "container": "\(attachment.id)",
                "addresses": "\(attachment.addresses.map(\.description).joined(separator: ","))",
            ])
        return Self.result(of: link, request).json(version: request.version)
    }

    /// An earlier ADD of the same interface: an error where it still stands, undone where it was cut off or its
    /// namespace is another.
    private func undoEarlier(_ request: CNIRequest, cookie: UInt64, in generation: Generation) async throws {
        let (earlier, isLinked) = try await blocking { [allocations] in
            (
                try allocations.attachment(request.id),
                (try? NetlinkSocket.index(of: Attachment.hostLink(of: request.id))) != nil
            )
        }
        guard let earlier, !queue.contains(request.id) else {
            if isLinked || earlier != nil { try await detach(request.id, in: generation) }
            return
        }
        guard !(earlier.isComplete && isLinked && earlier.namespaceCookie == cookie) else {
            let addresses = earlier.addresses.map(\.description).joined(separator: ", ")
            throw CNIError(
                .alreadyAttached, "container \(request.containerID) has interface \(request.interface) already",
                details: "with \(addresses); the runtime must run DEL before another ADD")
        }
        try await detach(request.id, in: generation)
    }

    /// Lets every plugin do its part for the pod, and waits until all have.
    private func putInForce(_ attachment: Attachment, in generation: Generation) async throws {
        let key = ObjectKey.attachment(attachment.id)
        let version = generation.state.update([key]) { $0.set(attachment) }
        for reconciler in generation.reconcilers { try await reconciler.inForce(key, version: version) }
    }

    private static func result(of link: PodLink, _ request: CNIRequest) -> CNIResult {
        let attachment = link.attachment
        let families = Set(attachment.addresses.map(\.family))
        return CNIResult(
            interfaces: [
                .init(name: attachment.hostLink, mac: attachment.hostMAC, mtu: link.linkMTU, sandbox: nil),
                .init(
                    name: attachment.id.interface, mac: attachment.podMAC, mtu: link.linkMTU,
                    sandbox: attachment.namespacePath),
            ],
            addresses: attachment.addresses, gateways: PodLink.gateways.filter { families.contains($0.key) },
            dns: request.config["dns"])
    }

    // MARK: DEL and GC

    /// Takes the attachment away, whatever of it is left.
    private func detach(_ id: AttachmentID, in generation: Generation) async throws {
        let key = ObjectKey.attachment(id)
        let version = generation.state.update([key]) { $0.remove(key) }
        // Every plugin has let go before the link goes, so that nothing of the old pod can meet a new one of its name.
        for reconciler in generation.reconcilers { try? await reconciler.inForce(key, version: version) }
        try await blocking { [pool, allocations] in
            try PodLink.remove(id, pool: pool)
            try allocations.release(id)
        }
        queue.remove(id)
        logger.info("pod detached", metadata: ["op": "DEL", "container": "\(id)"])
    }

    private func collectGarbage(_ request: CNIRequest, in generation: Generation) async throws {
        let valid = try request.validAttachments()
        let stale = try await blocking { [allocations] in try allocations.attachments() }
            .filter { $0.network == request.network && !valid.contains($0.id) }
        var failures: [String] = []
        for attachment in stale {
            do {
                try await claim(attachment.id) { try await self.detach(attachment.id, in: generation) }
            } catch {
                failures.append("\(attachment.id): \(error)")
            }
        }
        guard failures.isEmpty else {
            throw CNIError(.kernel, "GC left \(failures.count) attachments", details: failures.joined(separator: "; "))
        }
    }

    /// Frees what a reboot, a kill or a lost DEL left behind: what a DEL was queued for, attachments that were never
    /// answered, and those whose namespace and link are both gone.
    func sweep(in generation: Generation) async {
        for id in queue.pending {
            try? await claim(id) {
                guard self.queue.contains(id) else { return }
                try await self.detach(id, in: generation)
            }
        }
        guard let all = try? await blocking({ [allocations] in try allocations.attachments() }) else { return }
        for attachment in all {
            try? await claim(attachment.id) { try await self.detachIfStale(attachment.id, in: generation) }
        }
    }

    private func detachIfStale(_ id: AttachmentID, in generation: Generation) async throws {
        guard try await blocking({ [self] in try isStale(id) }) else { return }
        try await detach(id, in: generation)
    }

    private func isStale(_ id: AttachmentID) throws -> Bool {
        guard let attachment = try allocations.attachment(id) else { return false }
        guard attachment.isComplete else { return true }
        guard (try? NetlinkSocket.index(of: attachment.hostLink)) == nil else { return false }
        let cookie = try? NetworkNamespace(path: attachment.namespacePath).cookie()
        return cookie != attachment.namespaceCookie
    }

    // MARK: CHECK

    private func check(_ request: CNIRequest, namespace: NetworkNamespace?, in generation: Generation) async throws {
        guard let attachment = try await blocking({ [allocations] in try allocations.attachment(request.id) }) else {
            throw CNIError(
                .unknownContainer, "container \(request.containerID) has no interface \(request.interface) of knetd's")
        }
        guard let namespace else { throw CNIError(.invalidEnvironment, "CNI_NETNS cannot be opened") }
        let cookie = try await blocking { try namespace.cookie() }
        guard cookie == attachment.namespaceCookie else {
            throw CNIError(.changed, "CNI_NETNS \(request.namespacePath) is not the namespace that ADD was given")
        }
        let claimed = (request.config["prevResult"]?["ips"]?.array ?? []).compactMap {
            $0["address"]?.string?.split(separator: "/").first.flatMap { IPAddress($0) }
        }
        var found = attachment.addresses.filter { !claimed.contains($0) }.map { "prevResult lacks address \($0)" }
        found += try await blocking { [pool] in
            try PodLink(attachment: attachment, mtu: [:]).differences(in: namespace, pool: pool)
        }
        let key = ObjectKey.attachment(attachment.id)
        found += generation.reconcilers.compactMap { $0.report.faults[key] }
        guard found.isEmpty else {
            throw CNIError(
                .changed, "interface \(request.interface) of \(attachment.title) is not as ADD left it",
                details: found.joined(separator: "; "))
        }
    }

    // MARK: One request at a time for each attachment

    private func exclusively<Result>(
        _ request: CNIRequest, _ body: () async throws -> Result
    ) async throws -> Result {
        [.add, .del, .check].contains(request.command) ? try await claim(request.id, body) : try await body()
    }

    /// Runs `body` when nobody else works on the attachment, which a sweep may do for a moment.
    private func claim<Result>(_ id: AttachmentID, _ body: () async throws -> Result) async throws -> Result {
        let deadline = ContinuousClock.now + Self.patience
        while !busy.withLock({ $0.insert(id).inserted }) {
            guard ContinuousClock.now < deadline else {
                throw CNIError(.tryAgainLater, "another request for container \(id.containerID) is under way")
            }
            try await Task.sleep(for: .milliseconds(5))
        }
        defer { busy.withLock { _ = $0.remove(id) } }
        return try await body()
    }

    private static let patience = Duration.seconds(2)

    private static func cniError(_ error: any Error) -> CNIError {
        switch error {
        case let error as CNIError: error
        case let error as RangeExhausted: CNIError(.rangeExhausted, "\(error)")
        case let error as SystemError: CNIError(.kernel, "\(error)")
        case let error as NotInForce: CNIError(.kernel, "\(error)")
        default: CNIError(.inputOutput, "\(error)")
        }
    }
}
