import ArgumentParser
import Dispatch
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux

/// Times knetd beside what a user would pick instead, in the same run.
@main
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "knetd-bench",
        abstract: "Time knetd beside what a user would pick instead, in the same run; needs root.",
        discussion: """
            Everything happens in network namespaces of its own, which are gone afterwards. The contenders take turns, so \
            that a change of the machine's mood meets all alike: compare figures within one run only. Tables go to \
            standard output, progress to standard error.
            """)

    @Flag(help: "Print JSON: host facts, every row with name, unit, n, p50, p95, p99 and ratio, and the targets.")
    var json = false

    @Option(help: ArgumentHelp("Only this section; may be given several times.", valueName: "section"))
    var only: [SectionName] = []

    @Flag(help: "Few and short rounds: shows that everything runs; the figures mean nothing.")
    var quick = false

    @Option(help: "How many pods each contender attaches one by one (1 to 1000; default 50, quick 2).")
    var pods: Int?

    @Option(help: "How long each path is measured for each kind of traffic (1 to 600 s; default 5, quick 0.1).")
    var seconds: Int?

    @Option(help: "The knetd that is measured (default: beside this program).")
    var knetd: String?

    @Option(help: "Where the reference CNI plugins are.")
    var referencePlugins = "/usr/lib/cni"

    func validate() throws {
        guard (1...1000).contains(pods ?? 1) else { throw ValidationError("--pods takes 1 to 1000") }
        guard (1...600).contains(seconds ?? 1) else { throw ValidationError("--seconds takes 1 to 600") }
    }

    func run() throws {
        guard geteuid() == 0 else { throw ValidationError("network namespaces need root") }
        let options = BenchOptions(
            knetd: knetd ?? Self.neighbour("knetd"), referencePlugins: referencePlugins, isQuick: quick,
            pods: pods ?? (quick ? 2 : 50), seconds: seconds.map(Double.init) ?? (quick ? 0.1 : 5))
        guard FileManager.default.isExecutableFile(atPath: options.knetd) else {
            throw ValidationError("no executable \(options.knetd); build it with `make build` or name it with --knetd")
        }
        let report = try measure(options)
        print(json ? report.json.text(pretty: true) : report.text)
        if report.hasFailures { throw ExitCode(1) }
    }

    /// What was found before somebody ended the run, or a section could not go on, is reported all the same.
    private func measure(_ options: BenchOptions) throws -> Report {
        let sources = Progress.catchSignals()
        defer { for source in sources { source.cancel() } }
        var report = Report(host: HostFacts(options: options))
        let stage = try Stage(options)
        defer { stage.clear() }
        let sections = SectionName.allCases.filter { only.isEmpty || only.contains($0) }
        for section in sections {
            do {
                report.tables += try section.measure(stage)
            } catch {
                Progress.say("\(section): \(error)")
                report.faults.append("\(section): \(error)")
                if error is Progress.Interrupted { break }
            }
            // What a section has freed is not to be there when the next one measures this process.
            FreeMemory.giveBack()
        }
        report.targets = Target.all(report, sections)
        return report
    }

    /// A file in this program's own folder.
    private static func neighbour(_ name: String) -> String {
        let own = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        return own.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" } + "/\(name)"
    }
}

/// What `--only` takes.
enum SectionName: String, CaseIterable, ExpressibleByArgument {
    case cni, path, start, api, services, dns, policies

    static let allValueDescriptions = [
        "cni": "CNI ADD and DEL beside the reference plugins",
        "path": "TCP between pods beside bare veth, bridge, direct routes and Flannel's way",
        "start": "the daemon's start, its memory and its size",
        "api": "what following a large cluster by the API costs",
        "services": "services from nothing, one changed endpoint, connections, with few services and many",
        "dns": "queries a second, latency and memory beside unbound and knot; how soon changes are answered",
        "policies": "1000 network policies from nothing, a changed label, TCP between two pods of a node under them",
    ]

    func measure(_ stage: Stage) throws -> [Table] {
        switch self {
        case .cni: try CNISection(stage).measure()
        case .path: try PathSection(stage).measure()
        case .start: try StartSection(stage).measure()
        case .api: try APISection(stage).measure()
        case .services: try ServicesSection(stage).measure()
        case .dns: try DNSSection(stage).measure()
        case .policies: try PoliciesSection(stage).measure()
        }
    }
}

/// What the sections need of the command line.
struct BenchOptions: Sendable {
    let knetd: String
    let referencePlugins: String
    let isQuick: Bool
    /// Attached one by one by each contender.
    let pods: Int
    /// For each path and kind of traffic, in all rounds together.
    let seconds: Double
}
