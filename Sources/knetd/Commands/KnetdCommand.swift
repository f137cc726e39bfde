import ArgumentParser
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import Logging
import ServiceLifecycle
import UnixSignals

/// The command line.
struct KnetdCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "knetd",
        abstract: "The network of a small Kubernetes cluster, or of one machine, in one process.",
        discussion: "Executed with CNI_COMMAND set, it is a CNI plugin that asks the running daemon.",
        version: Version.current,
        subcommands: [
            RunCommand.self, StatusCommand.self, ConfigCommand.self, InstallCommand.self, UninstallCommand.self,
            CleanupCommand.self, ServicesCommand.self, LoadBalancersCommand.self, BGPCommand.self, DNSCommand.self,
            PolicyCommand.self,
            BPFCommand.self, ObserveCommand.self,
            PlaygroundCommand.self,
        ])
}

/// `--config`, the same for all commands that need the file.
struct ConfigOption: ParsableArguments {
    @Option(name: .long, help: "Configuration file; without one, the defaults, unless \(Defaults.configPath) exists.")
    var config: String?

    /// The file that counts; `nil` where there is none and the defaults hold.
    var path: String? {
        config ?? (FileManager.default.fileExists(atPath: Defaults.configPath) ? Defaults.configPath : nil)
    }

    /// - Throws: `ExitCode` after the problems were printed.
    func load() throws -> KnetCore.Configuration {
        do {
            return try path.map { try Plugins.configuration.read(path: $0) }
                ?? Plugins.configuration.read(Data("{}".utf8))
        } catch let error as ConfigurationError {
            complain(
                "\(path ?? "the defaults"): \(error.problems.count) problem\(error.problems.count == 1 ? "" : "s")\n\(error)"
            )
            throw ExitCode(2)
        }
    }
}

/// Prints to standard error.
func complain(_ text: String) {
    FileDescriptorOutput.standardError.write(text + "\n")
}

/// Standard output and error without Foundation.
struct FileDescriptorOutput {
    let number: Int32
    static let standardError = FileDescriptorOutput(number: STDERR_FILENO)

    func write(_ text: String) {
        let bytes = Array(text.utf8)
        _ = Glibc.write(number, bytes, bytes.count)
    }
}

struct RunCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "run", abstract: "Run the daemon.")

    @OptionGroup var config: ConfigOption

    func run() async throws {
        // Until the daemon listens for it, a request to reload must not end it.
        signal(SIGHUP, SIG_IGN)
        let configuration = try config.load()
        LoggingSystem.bootstrap(StreamLogHandler.standardError)
        var logger = Logger(label: "knetd")
        logger.logLevel = Logger.Level(rawValue: configuration.agent.logLevel) ?? .info
        let daemon: Daemon
        do {
            guard geteuid() == 0 else { throw ValidationError("knetd run needs root") }
            daemon = try Daemon(configuration: configuration, configPath: config.path, logger: logger)
        } catch {
            complain("knetd cannot start: \(error)")
            throw ExitCode(1)
        }
        do {
            try await ServiceGroup(
                configuration: .init(
                    services: [.init(service: daemon)], gracefulShutdownSignals: [.sigterm, .sigint],
                    logger: quiet(logger))
            ).run()
        } catch {
            complain("knetd stopped: \(error)")
            throw ExitCode(1)
        }
    }

    private func quiet(_ logger: Logger) -> Logger {
        var logger = logger
        logger.logLevel = .error
        return logger
    }
}

/// Asks the daemon for its status.
func askStatus(_ configuration: KnetCore.Configuration) throws -> StatusReport {
    let data = try AgentSocket.ask(
        configuration.agent.socketPath, JSONEncoder().encode(AgentRequest.status), descriptor: nil, seconds: 10)
    let reply = try JSONDecoder().decode(AgentReply.self, from: data)
    guard let body = reply.body else { throw ValidationError("the daemon gave no status") }
    return try body.decode()
}

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show plugins, peers, allocations and what is wrong. Exits with 1 while not ready.")

    @OptionGroup var config: ConfigOption
    @Flag(help: "Print JSON.") var json = false

    func run() throws {
        let report: StatusReport
        do {
            report = try askStatus(config.load())
        } catch let fault as AgentSocket.Fault {
            complain("\(fault)\nstart the daemon with `systemctl start knetd` or `knetd run`")
            throw ExitCode(1)
        }
        print(json ? try JSONValue(encoding: report).text(pretty: true) : report.text)
        if !report.ready { throw ExitCode(1) }
    }
}

struct ConfigCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "config", abstract: "Check, show or describe the configuration.",
        subcommands: [Validate.self, Show.self, Schema.self])

    struct Validate: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Check a configuration file; exits with 2 if it is refused.")
        @OptionGroup var config: ConfigOption
        @Argument(help: "The file.") var file: String?

        func run() throws {
            var config = config
            if let file { config.config = file }
            _ = try config.load()
            print("\(config.path ?? "the defaults"): valid")
        }
    }

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Print the configuration with every default.")
        @OptionGroup var config: ConfigOption

        func run() throws { print(try JSONValue(encoding: config.load()).text(pretty: true)) }
    }

    struct Schema: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Print the configuration's JSON Schema.")

        func run() { print(Plugins.configuration.schema.text(pretty: true)) }
    }
}
