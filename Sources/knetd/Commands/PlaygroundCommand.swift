import ArgumentParser
import CMnl
import Dispatch
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

struct PlaygroundCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "playground",
        abstract: "Several nodes with pods on this machine, as network namespaces; needs root, no containers.",
        subcommands: [Up.self, Status.self, Exec.self, PodCommand.self, Down.self, Demo.self])

    struct NameOption: ParsableArguments {
        @Option(help: "The playground's name.") var name = "default"

        func open() throws -> Playground { try Playground.open(name: name, executable: Self.executable) }

        /// This very program.
        static var executable: String {
            (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? "knetd"
        }
    }

    struct Up: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Build the nodes and start their daemons.")
        @OptionGroup var name: NameOption
        @Option(help: "How many nodes (1 to 100).") var nodes = 3
        @Option(help: "Configuration that all nodes share; names and folders are set for each.") var config: String?

        func validate() throws {
            guard (1...100).contains(nodes) else { throw ValidationError("--nodes takes 1 to 100") }
        }

        func run() throws {
            var options = Playground.Options()
            options.name = name.name
            options.nodes = nodes
            if let config {
                _ = try ConfigOption.parse(["--config", config]).load()
                options.configuration = try JSONValue(parsing: Data(contentsOf: URL(fileURLWithPath: config)))
            }
            let start = ContinuousClock.now
            let playground = try Playground.up(options, executable: NameOption.executable)
            let milliseconds = Int((ContinuousClock.now - start) / .milliseconds(1))
            print("\(nodes) nodes ready in \(milliseconds) ms; manifests in \(playground.manifests)")
        }
    }

    struct Status: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show every node's status.")
        @OptionGroup var name: NameOption

        func run() throws {
            let playground = try name.open()
            for node in playground.nodeNames {
                do {
                    let report: StatusReport = try playground.status(of: node).decode()
                    print(report.text + "\n")
                } catch {
                    print("\(node): \(error)\n")
                }
            }
        }
    }

    struct Exec: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Run a command inside a node or pod.")
        @OptionGroup var name: NameOption
        @Argument(help: "Node or pod; also lan and outside.") var target: String
        @Argument(parsing: .postTerminator, help: "The command, after --.") var command: [String] = []

        func run() throws {
            guard !command.isEmpty else { throw ValidationError("a command is missing: exec \(target) -- ip addr") }
            let namespace = try name.open().namespace(target)
            try syscall("setns") { setns(namespace.number, knet_clone_newnet) }
            let arguments = command.map { strdup($0) } + [nil]
            execvp(command[0], arguments)
            throw SystemError("run \(command[0])")
        }
    }

    struct PodCommand: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "pod", abstract: "Attach and detach pods.", subcommands: [Add.self, Del.self])

        struct Add: ParsableCommand {
            static let configuration = CommandConfiguration(abstract: "Make a pod and attach it by CNI ADD.")
            @OptionGroup var name: NameOption
            @Option(help: "The node it runs on.") var node = "node1"
            @Argument(help: "The pod's name.") var pod: String

            func run() throws {
                let addresses = try name.open().addPod(pod, node: node)
                print("\(pod) on \(node): \(addresses.map(\.description).joined(separator: " "))")
            }
        }

        struct Del: ParsableCommand {
            static let configuration = CommandConfiguration(abstract: "Detach a pod by CNI DEL and remove it.")
            @OptionGroup var name: NameOption
            @Argument(help: "The pod's name.") var pod: String

            func run() throws { try name.open().deletePod(pod) }
        }
    }

    struct Down: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "End the daemons and remove all namespaces and files.")
        @OptionGroup var name: NameOption

        func run() throws { try name.open().down() }
    }

    struct Demo: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Three nodes, six pods, every pair tried with real packets, once for each dataplane.")

        func run() throws {
            let dataplanes = Plugins.all.map(\.settings).filter(\.isDataplane).map(\.name)
            var failures: [String] = []
            for dataplane in dataplanes { failures += try demonstrate(dataplane) }
            guard failures.isEmpty else {
                complain(failures.joined(separator: "\n"))
                throw ExitCode(1)
            }
        }

        private func demonstrate(_ dataplane: String) throws -> [String] {
            var options = Playground.Options()
            options.name = "demo-\(getpid())"
            options.configuration = ["plugins": [dataplane: [:]]]
            let start = ContinuousClock.now
            return try withPlayground(options) { playground in
                for pod in 1...6 { try playground.addPod("pod\(pod)", node: "node\((pod + 1) / 2)") }
                let milliseconds = Int((ContinuousClock.now - start) / .milliseconds(1))
                let mtu = Self.pathMTU(dataplane, uplink: options.mtu)
                let report = try ConnectivityReport(playground, mtu: mtu)
                print(
                    "\(dataplane): 3 nodes and 6 pods up in \(milliseconds) ms, path MTU \(mtu[.v4] ?? 0) IPv4, \(mtu[.v6] ?? 0) IPv6"
                )
                print(report.text + "\n")
                return report.failures.map { "\(dataplane): \($0)" }
            }
        }

        /// What pods must see of a path over an uplink: VXLAN takes 50 bytes over IPv4 and 70 over IPv6.
        private static func pathMTU(_ dataplane: String, uplink: Int) -> [IPFamily: Int] {
            dataplane != "routed" ? [.v4: uplink - 50, .v6: uplink - 70] : [.v4: uplink, .v6: uplink]
        }
    }
}

/// A playground that goes down however the command ends, by Ctrl-C too.
private func withPlayground<Result>(
    _ options: Playground.Options, _ body: (Playground) throws -> Result
) throws -> Result {
    let playground = try Playground.up(options, executable: PlaygroundCommand.NameOption.executable)
    // The handler ends the process: nobody else uses the playground after it.
    nonisolated(unsafe) let abandoned = playground
    let sources = [SIGINT, SIGTERM].map { number in
        signal(number, SIG_IGN)
        let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
        source.setEventHandler {
            abandoned.down()
            exit(128 + number)
        }
        source.resume()
        return source
    }
    defer {
        for source in sources { source.cancel() }
        playground.down()
    }
    return try body(playground)
}
