import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux

/// The executable as a CNI plugin: reads what the runtime gives, asks the daemon, prints the answer.
enum CNIMode {
    private static let variables = [
        "CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH",
    ]

    /// - Returns: the exit status: 0, or 1 where an error was printed.
    static func run() -> Int32 {
        let environment = Dictionary(
            uniqueKeysWithValues: variables.compactMap { name in getenv(name).map { (name, String(cString: $0)) } })
        var version = CNIVersion.latest
        do throws(CNIError) {
            let config = try readConfig()
            version = config["cniVersion"]?.string.flatMap(CNIVersion.init) ?? version
            if environment["CNI_COMMAND"] == CNIRequest.Command.version.rawValue {
                return print(CNIVersion.report(for: config["cniVersion"]?.string ?? version.rawValue))
            }
            let request = try CNIRequest(environment: environment, config: config)
            if config["type"]?.string == LoopbackMode.type {
                return print(try LoopbackMode.answer(request, namespace: try open(request)))
            }
            return print(try answer(request))
        } catch {
            _ = print(error.json(version: version))
            return 1
        }
    }

    private static func readConfig() throws(CNIError) -> JSONValue {
        var input = Data()
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = read(STDIN_FILENO, &buffer, buffer.count)
            guard count > 0 else { break }
            input.append(contentsOf: buffer[..<count])
            guard input.count <= AgentReply.limit else {
                throw CNIError(.undecodable, "standard input has more than \(AgentReply.limit) bytes")
            }
        }
        do {
            return try JSONValue(parsing: input)
        } catch {
            throw CNIError(
                .undecodable, "the network configuration on standard input is \(error)",
                details: input.isEmpty ? "standard input is empty" : "")
        }
    }

    /// Asks the daemon.
    /// - Throws: the daemon's own error, or what kept it from answering.
    private static func answer(_ request: CNIRequest) throws(CNIError) -> JSONValue? {
        let namespace = try open(request)
        let socket = request.config["socket"]?.string ?? Defaults.socketPath
        let seconds = min(max(request.config["timeoutSeconds"]?.integer ?? Defaults.cniTimeoutSeconds, 1), 600)
        let reply: AgentReply
        do {
            let data = try AgentSocket.ask(
                socket, JSONEncoder().encode(AgentRequest.cni(request)), descriptor: namespace?.number,
                seconds: seconds)
            reply = try JSONDecoder().decode(AgentReply.self, from: data)
        } catch AgentSocket.Fault.absent(_, let error) where request.command == .del {
            return try postpone(request, because: error)
        } catch let fault as AgentSocket.Fault {
            throw unavailable(request, "\(fault)")
        } catch {
            throw unavailable(request, "the daemon's answer cannot be read: \(error)")
        }
        guard !reply.succeeded else { return reply.body }
        throw CNIError(
            reply.body?["code"]?.integer.flatMap(CNIError.Code.init) ?? .inputOutput,
            reply.body?["msg"]?.string ?? "the daemon gave no reason", details: reply.body?["details"]?.string ?? "")
    }

    /// Leaves a DEL for the daemon to do when it is back.
    private static func postpone(_ request: CNIRequest, because error: SystemError) throws(CNIError) -> JSONValue? {
        do {
            try DelQueue(runDirectory: directory(of: request.config["socket"]?.string ?? Defaults.socketPath))
                .add(request.id)
            return nil
        } catch let failure {
            throw unavailable(request, "\(error), and the DEL could not be queued: \(failure)")
        }
    }

    private static func directory(of path: String) -> String {
        path.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
    }

    /// DEL must succeed when the namespace is gone; ADD and CHECK must not begin without one.
    private static func open(_ request: CNIRequest) throws(CNIError) -> NetworkNamespace? {
        guard !request.namespacePath.isEmpty else { return nil }
        do {
            return try NetworkNamespace(path: request.namespacePath)
        } catch {
            guard request.command == .add || request.command == .check else { return nil }
            if error is NotANamespace {
                throw CNIError(.invalidEnvironment, "CNI_NETNS: \(error)")
            }
            throw CNIError(
                .unknownContainer, "CNI_NETNS: \(error)",
                details: "the namespace must exist before \(request.command.rawValue)")
        }
    }

    private static func unavailable(_ request: CNIRequest, _ reason: String) -> CNIError {
        let remedy = "start it with `systemctl start knetd`, or look at its pod in the cluster, and at `knetd status`"
        return request.command == .status
            ? CNIError(.unavailable, reason, details: remedy) : CNIError(.tryAgainLater, reason, details: remedy)
    }

    /// - Returns: 0, or 1 where the runtime did not get all of it and must not take the request for done.
    private static func print(_ value: JSONValue?) -> Int32 {
        guard let value else { return 0 }
        let bytes = Array((value.text() + "\n").utf8)
        return write(STDOUT_FILENO, bytes, bytes.count) == bytes.count ? 0 : 1
    }
}

/// What holds where neither a file nor an argument says otherwise.
enum Defaults {
    static let configPath = "/etc/knetd/knetd.json"
    static let socketPath = "/run/knetd/knetd.sock"
    static let cniTimeoutSeconds = 30
}
