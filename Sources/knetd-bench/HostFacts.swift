import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// On what was measured: without it no figure means anything elsewhere.
struct HostFacts {
    let started: String
    let kernel: String
    let processor: String
    let processors: Int
    /// MiB.
    let memory: Int
    /// Load averages of 1, 5 and 15 minutes before anything was measured: who else was at work.
    let load: String
    let knetd: String
    let referencePlugins: String

    init(options: BenchOptions) {
        started = Date().formatted(.iso8601)
        kernel = Self.line("/proc/sys/kernel/osrelease") ?? "unknown"
        processor = Self.value(of: "model name", in: "/proc/cpuinfo") ?? "unknown"
        processors = sysconf(Int32(_SC_NPROCESSORS_ONLN))
        memory =
            (Self.value(of: "MemTotal", in: "/proc/meminfo")?.split(separator: " ").first).flatMap { Int($0) }
            .map { $0 / 1024 } ?? 0
        load = (Self.line("/proc/loadavg") ?? "").split(separator: " ").prefix(3).joined(separator: " ")
        knetd = Self.firstLine(of: options.knetd, ["--version"])
        referencePlugins = Self.firstLine(of: "\(options.referencePlugins)/portmap", ["--version"])
    }

    var text: String {
        """
        \(started), Linux \(kernel), \(processors) × \(processor), \(memory) MiB, load \(load)
        knetd \(knetd); reference plugins: \(referencePlugins)
        """
    }

    var json: JSONValue {
        [
            "started": .string(started), "kernel": .string(kernel), "processor": .string(processor),
            "processors": .integer(processors), "memoryMiB": .integer(memory), "load": .string(load),
            "knetd": .string(knetd), "referencePlugins": .string(referencePlugins),
        ]
    }

    private static func line(_ path: String) -> String? {
        (try? TextFile.read(path))?.split(separator: "\n").first.map(String.init)
    }

    private static func value(of key: String, in path: String) -> String? {
        let lines = (try? TextFile.read(path))?.split(separator: "\n") ?? []
        return lines.first { $0.hasPrefix(key) }.flatMap { $0.split(separator: ":").last }
            .map { String($0.drop { $0 == " " || $0 == "\t" }) }
    }

    /// What a program says first, on either output.
    private static func firstLine(of executable: String, _ arguments: [String]) -> String {
        guard let outcome = try? ChildProcess.run(executable, arguments, seconds: 10) else { return "none" }
        return (outcome.output + outcome.errors).split(separator: "\n").first.map(String.init) ?? "unknown"
    }
}

/// Whole files of /proc, which have no length before they are read.
enum TextFile {
    static func read(_ path: String) throws -> String {
        String(decoding: try Data(contentsOf: URL(fileURLWithPath: path)), as: UTF8.self)
    }
}
