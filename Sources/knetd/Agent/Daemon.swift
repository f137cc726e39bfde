import FoundationEssentials
import Glibc
import KnetBFD
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
    private let nftables: Nftables
    private let kept = KeptDescriptors()
    private let liveness: LivenessWatch
    private let sysctls: SysctlWatch
    private let attacher: PodAttacher
    private let metrics = CNIMetrics()
    private let gate = RequestGate()
    /// What was wrong with the store when it was opened.
    private let storeFault: String?
    /// Held as long as the process lives: one daemon for each state directory.
    private let lock: StateLock
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
        let agent = configuration.agent
        for directory in [agent.runDirectory, agent.stateDirectory] {
            try FileManager.default.createDirectory(
                atPath: directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o755])
        }
        // A predecessor that was killed is gone only when the kernel has taken down what it had.
        lock = try StateLock(directory: agent.stateDirectory, seconds: 2)
        liveness = try LivenessWatch()
        sysctls = try SysctlWatch()
        nftables = try Nftables()
        kernel = NetworkKernel(pool: pool, nftables: nftables, sysctls: sysctls)
        (allocations, storeFault) = try AllocationStore.open(
            stateDirectory: agent.stateDirectory, runDirectory: agent.runDirectory, bootID: BootID.current(),
            now: time(nil))
        let adopted = try allocations.adopt(try kernel.attachments())
        if storeFault != nil || adopted > 0 {
            logger.warning(
                "attachments were read back from the kernel",
                metadata: ["op": "start", "count": "\(adopted)", "reason": "\(storeFault ?? "the store lacked them")"])
        }
        attacher = try PodAttacher(
            allocations: allocations, queue: DelQueue(runDirectory: agent.runDirectory), pool: pool,
            metrics: metrics, logger: logger)
        current = Mutex(
            try Self.generation(
                configuration, allocations: allocations, pool: pool, kernel: kernel, nftables: nftables, kept: kept,
                liveness: liveness, logger: logger)
        )
        if allocations.voidedByReboot > 0 {
            logger.notice(
                "allocations of an earlier boot are void",
                metadata: ["op": "start", "count": "\(allocations.voidedByReboot)"])
        }
    }

    private var generation: Generation { current.withLock { $0 } }

    private static func generation(
        _ configuration: Configuration, allocations: AllocationStore, pool: NetlinkPool, kernel: NetworkKernel,
        nftables: Nftables, kept: KeptDescriptors, liveness: LivenessWatch, logger: Logger
    ) throws -> Generation {
        try Generation(
            configuration: configuration, nodeName: configuration.node.name ?? HostName.ofNode(),
            allocations: allocations, pool: pool, kernel: kernel, nftables: nftables, kept: kept,
            liveness: liveness, logger: logger)
    }

    func run() async throws {
        // DNS has a socket for each question that it asks.
        OpenFiles.allow(65_536)
        try NetlinkMonitor.start(pool: pool, receiveBuffer: Self.receiveBuffer) { [weak self] events in
            self?.generation.kernelChanged(events)
        }
        try sysctls.start { [weak self] in self?.generation.kernelChanged([.sysctl]) }
        let agent = generation.configuration.agent
        let http = try await StatusServer.start(agent.statusAddresses) { [weak self] path in
            self?.respond(to: path) ?? .init(status: 503, text: "stopping\n")
        }
        let server = try AgentServer(path: agent.socketPath, limit: AgentReply.limit) { [weak self] data, namespace in
            await self?.answer(data, namespace: namespace) ?? Data()
        }
        try server.start()
        logger.info(
            "knetd started",
            metadata: ["op": "start", "version": "\(Version.current)", "node": "\(generation.nodeName)"])
        await cancelWhenGracefulShutdown { await self.serve() }
        logger.info("knetd stops; traffic goes on", metadata: ["op": "stop"])
        Systemd.notify("STOPPING=1")
        liveness.stop()
        server.stop()
        await http.stop()
    }

    /// Bytes for the kernel's notifications. Tests make it small to lose some.
    private static let receiveBuffer: Int32 = {
        #if DEBUG
            if let asked = getenv("KNETD_NETLINK_BUFFER").flatMap({ Int32(String(cString: $0)) }) { return asked }
        #endif
        return 4 << 20
    }()

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
        while true {
            let running = generation
            let task = Task { await running.run() }
            await sweep(running)
            var next: KnetCore.Configuration?
            while next == nil {
                guard await reloads.next() != nil else {
                    // Before plugins fall silent: to let go of a lease takes a while.
                    liveness.sayFarewell()
                    task.cancel()
                    await task.value
                    return
                }
                next = readAgain(running.configuration)
            }
            // The next one takes over what is attached: no request may be half way between.
            await gate.close()
            task.cancel()
            await task.value
            replace(running, with: next ?? running.configuration)
            await gate.open()
        }
    }

    /// - Returns: the file's new contents; `nil` where they are refused and the present ones stay.
    private func readAgain(_ running: KnetCore.Configuration) -> KnetCore.Configuration? {
        do {
            guard let configPath else { throw ReloadRefused("knetd runs without a file; start it with --config FILE") }
            let configuration = try Plugins.configuration.read(path: configPath)
            guard configuration.agent == running.agent else {
                throw ReloadRefused("$.agent cannot change while knetd runs; restart it")
            }
            return configuration
        } catch {
            refuse(error)
            return nil
        }
    }

    private func replace(_ running: Generation, with configuration: KnetCore.Configuration) {
        do {
            try begin(configuration)
            liveness.forgetOthers(than: Set(configuration.plugins.keys))
            reloadFault.withLock { $0 = nil }
            logger.notice("configuration reloaded", metadata: ["op": "reload"])
        } catch {
            refuse(error)
            // The old one has ended: one like it begins. Where that cannot be either, systemd starts anew.
            do { try begin(running.configuration) } catch {
                logger.critical("knetd cannot go on", metadata: ["op": "reload", "reason": "\(error)"])
                exit(1)
            }
        }
    }

    private func begin(_ configuration: KnetCore.Configuration) throws {
        let next = try Self.generation(
            configuration, allocations: allocations, pool: pool, kernel: kernel, nftables: nftables, kept: kept,
            liveness: liveness, logger: logger)
        current.withLock { $0 = next }
    }

    private func refuse(_ error: any Error) {
        reloadFault.withLock { $0 = "\(error)" }
        logger.error("configuration refused; the old one stays", metadata: ["op": "reload", "reason": "\(error)"])
    }

    /// Tells systemd as soon as pods can be attached.
    private func tellReadiness() async {
        var pause = Duration.milliseconds(10)
        while !Task.isCancelled, !generation.obstacles.isEmpty {
            try? await Task.sleep(for: pause)
            pause = min(pause * 2, .milliseconds(500))
        }
        if Task.isCancelled { return }
        Systemd.notify("READY=1")
        logger.info(
            "ready", metadata: ["op": "start", "ms": "\(Int((ContinuousClock.now - started) / .milliseconds(1)))"])
        while (try? await Task.sleep(for: .seconds(60))) != nil {
            await sweep(generation)
        }
    }

    private func sweep(_ generation: Generation) async {
        try? await onOwnThread("knetd-sweep") { [attacher] in await attacher.sweep(in: generation) }
    }

    // MARK: Answers

    private func answer(_ data: Data, namespace: NetworkNamespace?) async -> Data {
        let reply: AgentReply
        do {
            switch try JSONDecoder().decode(AgentRequest.self, from: data) {
            case .cni(let request):
                reply = await gate.pass { [self] in
                    await attacher.handle(request, namespace: namespace, in: generation)
                }
            case .status:
                reply = AgentReply(
                    succeeded: true, body: try await blocking { [self] in try JSONValue(encoding: status()) })
            case .describe(let plugin, let words):
                reply = await describe(plugin, words)
            }
        } catch {
            reply = AgentReply(succeeded: false, body: ["msg": .string("request not understood: \(error)")])
        }
        return (try? JSONEncoder().encode(reply)) ?? Data()
    }

    private func describe(_ plugin: String, _ words: [String]) async -> AgentReply {
        let generation = generation
        do {
            guard let service = generation.services[plugin] else {
                throw DescriptionRefused("plugins.\(plugin) is not enabled in this knetd's configuration")
            }
            let body = try await onOwnThread("knetd-describe") {
                do {
                    return Result<JSONValue, any Error>.success(
                        try await service.describe(words, in: generation.state.current))
                } catch {
                    return .failure(error)
                }
            }
            return AgentReply(succeeded: true, body: try body.get())
        } catch {
            return AgentReply(succeeded: false, body: ["msg": .string("\(error)")])
        }
    }

    private func status() throws -> StatusReport {
        let generation = generation
        let kubeProxyRules = generation.hasServices ? (try? KubeProxyRules(nftables: nftables).found()) ?? [] : []
        return try StatusReport(
            generation: generation, attachments: allocations.attachments(), failures: metrics.failures,
            kubeProxyRules: kubeProxyRules,
            reloadFault: reloadFault.withLock { $0 }, storeFault: storeFault)
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
                status: 200, text: MetricsPage.text(report, generation: generation, cni: metrics.figures),
                type: "text/plain; version=0.0.4")
        default: return .init(status: 404, text: "/healthz, /readyz or /metrics\n")
        }
    }
}

/// Keeps a second daemon, or a cleanup beside a running one, from the same state.
final class StateLock: Sendable {
    private let file: SharedDescriptor

    /// - Parameter seconds: how long another process may take to end.
    /// - Throws: where another process has it.
    init(directory: String, seconds: Int) throws {
        // The folder itself: that works on a full or read-only disk too.
        file = SharedDescriptor(try Descriptor(opening: directory, O_RDONLY | O_DIRECTORY))
        let deadline = ContinuousClock.now + .seconds(seconds)
        while flock(file.number, LOCK_EX | LOCK_NB) != 0 {
            if errno == EWOULDBLOCK, ContinuousClock.now < deadline {
                usleep(5_000)
                continue
            }
            throw SystemError("lock \(directory)", errno: errno, detail: "another knetd runs with this state directory")
        }
    }
}

private struct DescriptionRefused: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
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

    /// What the pod's manifest says by the downward API (`KNETD_NODE_NAME`), else the host's name as the kubelet has it.
    static func ofNode() -> String {
        getenv("KNETD_NODE_NAME").map { String(cString: $0) } ?? current().lowercased()
    }
}
