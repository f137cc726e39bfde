import ArgumentParser
import FoundationEssentials
import Glibc
import KnetBFD
import KnetCore
import KnetDataplane
import KnetLinux
import Logging

/// What the container runtime reads: the plugin's file and the network's configuration.
struct CNIInstallation {
    let configuration: KnetCore.Configuration

    var binaryPath: String { "\(configuration.cni.binaryDirectory)/knetd" }
    var conflistPath: String { "\(configuration.cni.configDirectory)/\(configuration.cni.configFile)" }

    /// The network configuration list
    /// (https://github.com/containernetworking/cni/blob/main/SPEC.md#section-1-network-configuration-format). `cniVersion` is
    /// what runtimes of 2023 know; newer ones choose from `cniVersions`.
    var conflist: JSONValue {
        [
            "cniVersion": "1.0.0", "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
            "name": .string(configuration.cni.networkName),
            "plugins": [
                [
                    "type": "knetd", "socket": .string(configuration.agent.socketPath),
                    "timeoutSeconds": .integer(configuration.cni.timeoutSeconds),
                    "capabilities": ["portMappings": true, "bandwidth": true, "ips": true, "mac": true],
                ]
            ],
        ]
    }

    /// Runtimes run the plugin `loopback` too; where nobody has put one, this executable is it.
    private var loopbackPath: String { "\(configuration.cni.binaryDirectory)/\(LoopbackMode.type)" }

    /// Writes both files, each in one step, the configuration last: what the runtime sees is always whole.
    func write() throws {
        for directory in [configuration.cni.binaryDirectory, configuration.cni.configDirectory] {
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        }
        try place(Data(contentsOf: URL(fileURLWithPath: "/proc/self/exe")), at: binaryPath, mode: 0o755)
        guard symlink("knetd", loopbackPath) == 0 || errno == EEXIST else { throw SystemError("link \(loopbackPath)") }
        try place(Data((conflist.text(pretty: true) + "\n").utf8), at: conflistPath, mode: 0o644)
    }

    private func place(_ data: Data, at path: String, mode: mode_t) throws {
        if (try? Data(contentsOf: URL(fileURLWithPath: path))) == data { return }
        // A dot keeps runtimes from reading it before it is whole.
        let directory = path.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        let temporary = "\(directory)/.knetd-\(getpid())"
        do {
            try data.write(to: URL(fileURLWithPath: temporary))
            try syscall("chmod \(temporary)") { chmod(temporary, mode) }
            let file = try Descriptor(opening: temporary)
            try syscall("fsync \(temporary)") { fsync(file.number) }
            try syscall("rename to \(path)") { rename(temporary, path) }
        } catch {
            unlink(temporary)
            throw error
        }
    }

    /// Removes the configuration first, so that no pod is begun that cannot be finished.
    /// - Returns: what was removed.
    func remove() throws -> [String] {
        var removed: [String] = []
        if let data = try? Data(contentsOf: URL(fileURLWithPath: conflistPath)) {
            let types = (try? JSONValue(parsing: data))?["plugins"]?.array?.compactMap { $0["type"]?.string } ?? []
            guard types.contains("knetd") else {
                throw ValidationError("\(conflistPath) is not knetd's: no plugin of type knetd in it; it stays")
            }
            try syscall("remove \(conflistPath)") { unlink(conflistPath) }
            removed.append(conflistPath)
        }
        if (try? FileManager.default.destinationOfSymbolicLink(atPath: loopbackPath)) == "knetd",
            unlink(loopbackPath) == 0
        {
            removed.append(loopbackPath)
        }
        if unlink(binaryPath) == 0 { removed.append(binaryPath) }
        return removed
    }
}

struct InstallCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "install",
        abstract: "Write the CNI plugin and its network configuration, once the daemon is ready or at once.")

    @OptionGroup var config: ConfigOption
    @Option(help: "Seconds to wait for the daemon to be ready.") var wait = 60
    @Flag(help: "Do not wait: until the daemon is ready, the plugin tells the runtime to try again.") var atOnce = false

    func run() async throws {
        let configuration = try config.load()
        if !atOnce { try await untilReady(configuration) }
        let installation = CNIInstallation(configuration: configuration)
        try installation.write()
        print("installed \(installation.binaryPath) and \(installation.conflistPath)")
    }

    private func untilReady(_ configuration: KnetCore.Configuration) async throws {
        let deadline = ContinuousClock.now + .seconds(wait)
        var obstacle = "the daemon does not run"
        while true {
            do {
                let report = try askStatus(configuration)
                if report.ready { break }
                obstacle = report.obstacles.joined(separator: "; ")
            } catch {
                obstacle = "\(error)"
            }
            guard ContinuousClock.now < deadline else {
                complain("nothing was installed: knetd is not ready after \(wait) s: \(obstacle)")
                throw ExitCode(1)
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }
}

struct UninstallCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "uninstall", abstract: "Remove the CNI plugin and its network configuration.")

    @OptionGroup var config: ConfigOption

    func run() throws {
        let removed = try CNIInstallation(configuration: config.load()).remove()
        print(removed.isEmpty ? "nothing was installed" : "removed \(removed.joined(separator: " and "))")
    }
}

struct CleanupCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cleanup",
        abstract: "Remove everything of knetd's from the kernel and its store; nothing else is touched.")

    @OptionGroup var config: ConfigOption
    @Flag(
        help:
            "Remove the rules that a kube-proxy left instead (nftables, iptables-nft, iptables-legacy); the daemon may run."
    )
    var kubeProxy = false

    func run() throws {
        if kubeProxy {
            let removed = try KubeProxyRules(nftables: Nftables()).remove()
            print(removed.isEmpty ? "no rules of a kube-proxy are there" : "removed \(removed.joined(separator: ", "))")
            return
        }
        let configuration = try config.load()
        try FileManager.default.createDirectory(
            atPath: configuration.agent.stateDirectory, withIntermediateDirectories: true)
        let lock: StateLock
        do {
            lock = try StateLock(directory: configuration.agent.stateDirectory, seconds: 0)
        } catch {
            complain("\(error)\na running daemon would put everything back; stop it first with `systemctl stop knetd`")
            throw ExitCode(1)
        }
        defer { withExtendedLifetime(lock) {} }
        let pool = NetlinkPool()
        let nftables = try Nftables()
        let kernel = NetworkKernel(pool: pool, nftables: nftables)
        let surroundings = PluginEntry.Surroundings(
            nftables: nftables, pool: pool, kept: KeptDescriptors(), logger: Logger(label: "knetd"),
            names: NameExchange(), verdicts: VerdictExchange(),
            flows: FlowExchange(heardBy: configuration.plugins["flows"]), writing: WriterExchange(),
            liveness: try LivenessWatch(), configuration: configuration)
        for plugin in Plugins.all { try plugin.remove?(surroundings) }
        let failures = kernel.apply(KernelChanges(remove: try kernel.read().filter(\.isRemovable))).failures
        let pods = try pool.with { socket in
            let links = try socket.exactLinks().filter { $0.alias?.hasPrefix(PodLink.aliasPrefix) == true }
            var batch = NetlinkBatch()
            for link in links { batch.append(.deleteLink(name: link.name)) }
            return try socket.send(batch).count { $0 == nil }
        }
        let agent = configuration.agent
        for path in AllocationStore.files(stateDirectory: agent.stateDirectory, runDirectory: agent.runDirectory) {
            unlink(path)
        }
        unlink(agent.statusPath)
        unlink(configuration.agent.socketPath)
        for failure in failures { complain("not removed: \(failure.entry): \(failure.reason)") }
        print("removed knetd's routes, devices and tables, \(pods) pod links and the store")
        if !failures.isEmpty { throw ExitCode(1) }
    }
}
