import FoundationEssentials
import Glibc
import KnetCore
import KnetDataplane
import KnetLinux
import Logging
import ServiceLifecycle
import Synchronization
import UnixSignals

/// The daemon: what lives through reloads (store, sockets, monitor) around the generation of the day.
final class Daemon: ServiceLifecycle.Service {
    private let configPath: String?
    private let logger: Logger
    private let allocations: AllocationStore
    private let pool = NetlinkPool()
    private let kernel: NetworkKernel
    private let attacher: PodAttacher
    private let metrics = CNIMetrics()
    private let started = ContinuousClock.now
    private let current: Mutex<Generation>
    /// What the last reload was refused for.
    private let reloadFault = Mutex<String?>(nil)
    private let reloads: AsyncStream<Void>
    private let reloader: AsyncStream<Void>.Continuation

    /// - Parameter configPath: `nil` takes the defaults.
    /// - Throws: what keeps the daemon from starting; nothing has been changed then.
    init(configuration: Configuration, configPath: String?, logger: Logger) throws {
        self.configPath = configPath
        self.logger = logger
        (reloads, reloader) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        for directory in [configuration.agent.runDirectory, configuration.agent.stateDirectory] {
            try FileManager.default.createDirectory(
                atPath: directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o755])
        }
        allocations = try AllocationStore(path: configuration.agent.storePath, bootID: BootID.current())
        kernel = NetworkKernel(pool: pool, nftables: try Nftables())
        attacher = PodAttacher(allocations: allocations, pool: pool, metrics: metrics, logger: logger)
        current = Mutex(
            try Self.generation(configuration, allocations: allocations, pool: pool, kernel: kernel, logger: logger))
        if allocations.voidedByReboot > 0 {
            logger.notice(
                "allocations of an earlier boot are void",
                metadata: ["op": "start", "count": "\(allocations.voidedByReboot)"])
        }
    }

    private var generation: Generation { current.withLock { $0 } }

    private static func generation(
        _ configuration: Configuration, allocations: AllocationStore, pool: NetlinkPool, kernel: NetworkKernel,
        logger: Logger
    ) throws -> Generation {
        try Generation(
            configuration: configuration, nodeName: configuration.node.name ?? HostName.current(),
            allocations: allocations,
            pool: pool, kernel: kernel, logger: logger)
    }

    func run() async throws {
        try NetlinkMonitor.start(pool: pool) { [weak self] _ in self?.generation.kernelChanged() }
        let agent = generation.configuration.agent
        let server = try AgentServer(path: agent.socketPath, limit: AgentReply.limit) { [weak self] data, namespace in
            await self?.answer(data, namespace: namespace) ?? Data()
        }
        try server.start()
        let http = try await StatusServer.start(agent.statusAddresses) { [weak self] path in
            self?.respond(to: path) ?? .init(status: 503, text: "stopping\n")
        }
        logger.info(
            "knetd started",
            metadata: ["op": "start", "version": "\(Version.current)", "node": "\(generation.nodeName)"])
        await cancelWhenGracefulShutdown { await self.serve() }
        logger.info("knetd stops; traffic goes on", metadata: ["op": "stop"])
        Systemd.notify("STOPPING=1")
        server.stop()
        await http.stop()
    }

    /// Runs generation after generation.
    private func serve() async {
        await withTaskGroup { group in
            group.addTask { await self.tellReadiness() }
            group.addTask {
                for await _ in await UnixSignalsSequence(trapping: .sighup) { self.reloader.yield() }
            }
            group.addTask { await self.runGenerations() }
            await group.next()
            group.cancelAll()
        }
    }

    private func runGenerations() async {
        var reloads = reloads.makeAsyncIterator()
        while !Task.isCancelled {
            let running = generation
            let task = Task { await running.run() }
            await attacher.sweep(in: running)
            var next: Generation?
            while next == nil {
                guard await reloads.next() != nil else {
                    task.cancel()
                    await task.value
                    return
                }
                next = reload(from: running)
            }
            task.cancel()
            await task.value
            if let next { current.withLock { $0 = next } }
        }
    }

    /// - Returns: the next generation; `nil` where the file is refused and the present one stays.
    private func reload(from running: Generation) -> Generation? {
        Systemd.notify("RELOADING=1\nMONOTONIC_USEC=\(Systemd.monotonicMicroseconds())")
        defer { Systemd.notify("READY=1") }
        do {
            guard let configPath else { throw ReloadRefused("knetd runs without a file; start it with --config FILE") }
            let configuration = try Plugins.configuration.read(path: configPath)
            guard configuration.agent == running.configuration.agent else {
                throw ReloadRefused("$.agent cannot change while knetd runs; restart it")
            }
            let next = try Self.generation(
                configuration, allocations: allocations, pool: pool, kernel: kernel, logger: logger)
            reloadFault.withLock { $0 = nil }
            logger.notice("configuration reloaded", metadata: ["op": "reload"])
            return next
        } catch {
            reloadFault.withLock { $0 = "\(error)" }
            logger.error("configuration refused; the old one stays", metadata: ["op": "reload", "reason": "\(error)"])
            return nil
        }
    }

    /// Tells systemd as soon as pods can be attached.
    private func tellReadiness() async {
        while !Task.isCancelled, !generation.obstacles.isEmpty {
            try? await Task.sleep(for: .milliseconds(20))
        }
        Systemd.notify("READY=1")
        logger.info(
            "ready", metadata: ["op": "start", "ms": "\(Int((ContinuousClock.now - started) / .milliseconds(1)))"])
        while (try? await Task.sleep(for: .seconds(60))) != nil {
            await attacher.sweep(in: generation)
        }
    }

    // MARK: Answers

    private func answer(_ data: Data, namespace: NetworkNamespace?) async -> Data {
        let reply: AgentReply
        do {
            switch try JSONDecoder().decode(AgentRequest.self, from: data) {
            case .cni(let request): reply = await attacher.handle(request, namespace: namespace, in: generation)
            case .status: reply = AgentReply(succeeded: true, body: try JSONValue(encoding: try status()))
            }
        } catch {
            reply = AgentReply(succeeded: false, body: ["msg": .string("request not understood: \(error)")])
        }
        return (try? JSONEncoder().encode(reply)) ?? Data()
    }

    private func status() throws -> StatusReport {
        try StatusReport(
            generation: generation, attachments: allocations.attachments(), reloadFault: reloadFault.withLock { $0 })
    }

    private func respond(to path: String) -> StatusServer.Response {
        switch path {
        case "/healthz": return .init(status: 200, text: "ok\n")
        case "/readyz":
            let obstacles = generation.obstacles
            return obstacles.isEmpty
                ? .init(status: 200, text: "ok\n")
                : .init(status: 503, text: obstacles.map { "\($0)\n" }.joined())
        case "/metrics":
            guard let report = try? status() else { return .init(status: 500, text: "the store cannot be read\n") }
            return .init(
                status: 200, text: MetricsPage.text(report, generation: generation, cni: metrics.snapshot),
                type: "text/plain; version=0.0.4")
        default: return .init(status: 404, text: "/healthz, /readyz or /metrics\n")
        }
    }
}

private struct ReloadRefused: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// The kernel's identity of this boot.
enum BootID {
    static func current() -> String { (try? Sysctl.read("kernel/random/boot_id")) ?? "unknown" }
}

enum HostName {
    static func current() -> String { (try? Sysctl.read("kernel/hostname")) ?? "localhost" }
}
