import FoundationEssentials
import HashTreeCollections
import KnetCore
import KnetDataplane
import KnetLinux
import Logging
import Synchronization

/// Answers what the CNI mode asks. Every command can be repeated: what is done already is found done. Its methods block in
/// the kernel and the store: they are to be called on a thread of their own.
final class PodAttacher: Sendable {
    private let allocations: AllocationStore
    private let pool: NetlinkPool
    private let metrics: CNIMetrics
    private let logger: Logger
    private let queue: DelQueue
    private let remover: LinkRemover
    /// The node's own namespace, which is no pod's.
    private let ownCookie: UInt64
    /// Attachments that a request is working on.
    private let busy = Mutex<Set<AttachmentID>>([])

    init(
        allocations: AllocationStore, queue: DelQueue, pool: NetlinkPool, metrics: CNIMetrics, logger: Logger
    ) throws {
        remover = LinkRemover(allocations: allocations, pool: pool, logger: logger)
        ownCookie = try NetworkNamespace.currentCookie()
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
        let options = try request.options()
        let chained = options.chained
        let requested = try Self.requested(request, in: local, chained)
        let families = chained == nil ? local.podCIDRs.map(\.family) : []
        let pod = try PodLink.Namespace(namespace, families: families)
        guard pod.cookie != ownCookie else {
            throw CNIError(
                .invalidEnvironment, "CNI_NETNS \(request.namespacePath) is this node's own namespace",
                details: "a pod in the host's network needs no CNI")
        }
        try await undoEarlier(request, cookie: pod.cookie, in: generation)
        if let namespace = request.arguments["K8S_POD_NAMESPACE"], let name = request.arguments["K8S_POD_NAME"] {
            await generation.waitForPod(ObjectKey(.pod, namespace: namespace, name: name))
        }

        let attachment = try await reserve(
            Attachment(
                id: request.id, network: request.network, podNamespace: request.arguments["K8S_POD_NAMESPACE"],
                podName: request.arguments["K8S_POD_NAME"], namespacePath: request.namespacePath,
                namespaceCookie: pod.cookie, options: options, addresses: chained?.addresses ?? []),
            from: chained == nil ? local.podCIDRs.map(AddressRange.init) : [], requested: requested)
        let mtu = local.podCIDRs.map { ($0.family, dataplane.podMTU($0.family, local: local)) }
        let link = PodLink(attachment: attachment, mtu: Dictionary(uniqueKeysWithValues: mtu))
        do {
            try link.create(in: pod, pool: pool)
            try await putInForce(attachment, in: generation)
            try allocations.complete(attachment.id)
        } catch {
            // The interface that the failed ADD made must not be in the way of the next.
            try? await detach(attachment.id, in: generation)
            await remover.finish(attachment.id)
            throw error
        }
        logger.info(
            "pod attached",
            metadata: [
                "op": "ADD", "pod": "\(attachment.title)", "container": "\(attachment.id)",
                "addresses": "\(attachment.addresses.map(\.description).joined(separator: ","))",
            ])
        let previous = request.config["prevResult"]
        if chained != nil, let previous { return previous }
        return Self.result(of: link, request).json(version: request.version, after: previous)
    }

    /// Where all are taken, those of pods that are leaving are waited for.
    private func reserve(
        _ attachment: Attachment, from ranges: [AddressRange], requested: [IPAddress]
    ) async throws -> Attachment {
        do {
            return try allocations.reserve(attachment, from: ranges, requested: requested)
        } catch  where (error is RangeExhausted || error is AlreadyTaken) {
            await remover.removePending()
            return try allocations.reserve(attachment, from: ranges, requested: requested)
        }
    }

    /// The addresses that the runtime asks for, each in one of this node's ranges.
    private static func requested(
        _ request: CNIRequest, in local: LocalNode, _ chained: ChainedLink?
    ) throws -> [IPAddress] {
        let requested = try request.requestedAddresses()
        for address in requested where chained == nil {
            let range = local.podCIDR(address.family).map(AddressRange.init)
            guard let range, address >= range.first, address <= range.last else {
                let allowed = local.podCIDRs.map(AddressRange.init).map { "\($0.first) to \($0.last)" }
                throw CNIError(
                    .invalidConfig, "address \(address) cannot be had on this node",
                    details: "it has \(allowed.joined(separator: " and "))")
            }
        }
        return requested
    }

    /// An earlier ADD of the same interface: an error where it still stands, undone where it was cut off or its
    /// namespace is another.
    private func undoEarlier(_ request: CNIRequest, cookie: UInt64, in generation: Generation) async throws {
        let earlier = try allocations.attachment(request.id)
        let isLinked = (try? NetlinkSocket.index(of: Attachment.hostLink(of: request.id))) != nil
        if earlier == nil, !isLinked { return }
        if let earlier, earlier.phase == .attached, isLinked || earlier.options.chained != nil,
            earlier.namespaceCookie == cookie, !queue.contains(request.id)
        {
            let addresses = earlier.addresses.map(\.description).joined(separator: ", ")
            throw CNIError(
                .alreadyAttached, "container \(request.containerID) has interface \(request.interface) already",
                details: "with \(addresses); the runtime must run DEL before another ADD")
        }
        if earlier?.phase != .leaving { try await detach(request.id, in: generation) }
        await remover.finish(request.id)
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

    /// Takes the attachment away, whatever of it is left. What it had in the kernel is gone when this returns, except for
    /// the link itself, which nothing leads to any more and which goes in its own time.
    private func detach(_ id: AttachmentID, in generation: Generation) async throws {
        let key = ObjectKey.attachment(id)
        let version = generation.state.update([key]) { $0.remove(key) }
        // Every plugin has let go before the link goes, so that nothing of the old pod can meet a new one of its name.
        for reconciler in generation.reconcilers { try? await reconciler.inForce(key, version: version) }
        do {
            try allocations.leave(id)
        } catch {
            // A full disk must not keep a pod from going: the next sweep sees that link and namespace are gone.
            logger.warning("DEL is not recorded", metadata: ["container": "\(id)", "reason": "\(error)"])
        }
        queue.remove(id)
        remover.begin(id)
        logger.info("pod detached", metadata: ["op": "DEL", "container": "\(id)"])
    }

    private func collectGarbage(_ request: CNIRequest, in generation: Generation) async throws {
        let valid = try request.validAttachments()
        let stale = try allocations.attachments()
            .filter { $0.network == request.network && !valid.contains($0.id) && $0.phase != .leaving }
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
        for attachment in (try? allocations.attachments()) ?? [] {
            try? await claim(attachment.id) { try await self.detachIfStale(attachment.id, in: generation) }
        }
    }

    private func detachIfStale(_ id: AttachmentID, in generation: Generation) async throws {
        guard let attachment = try allocations.attachment(id), isStale(attachment) else { return }
        if attachment.phase == .leaving { remover.begin(id) } else { try await detach(id, in: generation) }
    }

    private func isStale(_ attachment: Attachment) -> Bool {
        guard attachment.phase == .attached else { return true }
        if attachment.options.chained == nil, (try? NetlinkSocket.index(of: attachment.hostLink)) != nil {
            return false
        }
        let cookie = try? NetworkNamespace(path: attachment.namespacePath).cookie()
        return cookie != attachment.namespaceCookie
    }

    // MARK: CHECK

    private func check(_ request: CNIRequest, namespace: NetworkNamespace?, in generation: Generation) async throws {
        guard let attachment = try allocations.attachment(request.id), attachment.phase == .attached else {
            throw CNIError(
                .unknownContainer, "container \(request.containerID) has no interface \(request.interface) of knetd's")
        }
        guard let namespace else { throw CNIError(.invalidEnvironment, "CNI_NETNS cannot be opened") }
        let pod = try PodLink.Namespace(namespace)
        // A cookie of 0 is not known: the record was rebuilt from the kernel.
        guard [0, pod.cookie].contains(attachment.namespaceCookie) else {
            throw CNIError(.changed, "CNI_NETNS \(request.namespacePath) is not the namespace that ADD was given")
        }
        let claimed = (request.config["prevResult"]?["ips"]?.array ?? []).compactMap {
            $0["address"]?.string?.split(separator: "/").first.flatMap { IPAddress($0) }
        }
        var found = attachment.addresses.filter { !claimed.contains($0) }.map { "prevResult lacks address \($0)" }
        found += try PodLink(attachment: attachment, mtu: [:]).differences(in: pod, pool: pool)
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
        case let error as AlreadyTaken: CNIError(.alreadyTaken, "\(error)")
        default: CNIError(.inputOutput, "\(error)")
        }
    }
}
