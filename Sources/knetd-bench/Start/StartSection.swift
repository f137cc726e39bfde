import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// Measures the daemon itself: how soon it is ready, what it holds in memory, how large the executable is.
struct StartSection {
    static let executable = "executable"

    private let stage: Stage

    init(_ stage: Stage) { self.stage = stage }

    func measure() throws -> [Table] {
        let playground = try stage.playground(
            "knetd, dual stack, for its start", nodes: 1, [:], families: IPFamily.allCases)
        var starts = Collector()
        var memory = [Memory.Part.resident: Collector(), .anonymous: Collector()]
        for pods in [0, stage.options.isQuick ? 2 : 50] {
            let name = "\(pods) pods"
            try Progress.step("start: \(name)")
            for pod in 0..<pods { try playground.addPod("pod\(pod)", node: "node1") }
            // Before it is started anew: this daemon attached them all.
            let held = try Memory.held(by: playground.process(of: "node1"))
            for (part, mebibytes) in held { memory[part]?.add(name, [mebibytes]) }
            for _ in 0..<(stage.options.isQuick ? 1 : 10) {
                try Progress.check()
                try playground.stopDaemon("node1")
                starts.add(name, [try start(playground)])
            }
        }
        return [
            Table(id: "start.ready", title: "knetd from its start to ready", unit: "ms", rows: starts.rows),
            Table(
                id: "start.resident", title: "knetd idle: resident memory", unit: "MiB",
                rows: memory[.resident]?.rows ?? []),
            Table(
                id: "start.anonymous", title: "knetd idle: anonymous memory, a part of it", unit: "MiB",
                rows: memory[.anonymous]?.rows ?? []),
            Table(id: "start.size", title: "knetd stripped", unit: "MB", rows: [size()]),
        ]
    }

    /// - Returns: milliseconds until the daemon says that it is ready.
    private func start(_ playground: Playground) throws -> Double {
        let start = ContinuousClock.now
        try playground.startDaemon("node1")
        while ContinuousClock.now - start < .seconds(20) {
            if let status = try? playground.status(of: "node1"), status["ready"] == true {
                return (ContinuousClock.now - start) / .milliseconds(1)
            }
            usleep(1000)
        }
        throw Playground.Failure("knetd is not ready after 20 s\n\(playground.log(of: "node1"))")
    }

    private func size() -> Row {
        do {
            return Row(
                Self.executable, .measured([try ExecutableSize.stripped(stage.options.knetd, in: stage.directory)]))
        } catch {
            return Row(Self.executable, .failed("\(error)"))
        }
    }
}

/// What a process holds.
enum Memory {
    enum Part: String {
        case resident = "Rss:"
        case anonymous = "Anonymous:"
    }

    /// By /proc/PID/smaps_rollup (Documentation/filesystems/proc.rst), after a second in which the process could rest.
    /// - Returns: MiB.
    static func held(by process: Int32) throws -> [(Part, Double)] {
        sleep(1)
        let lines = try TextFile.read("/proc/\(process)/smaps_rollup").split(separator: "\n")
        return [Part.resident, .anonymous].compactMap { part in
            let fields = lines.first { $0.hasPrefix(part.rawValue) }?.split(separator: " ") ?? []
            return fields.dropFirst().first.flatMap { Double($0) }.map { (part, $0 / 1024) }
        }
    }
}

/// What an executable takes on disk without symbols and debug information.
enum ExecutableSize {
    /// - Returns: MB, of 10⁶ bytes.
    static func stripped(_ executable: String, in directory: String) throws -> Double {
        let copy = "\(directory)/stripped"
        defer { unlink(copy) }
        let outcome = try? ChildProcess.run("strip", ["-o", copy, executable], seconds: 60)
        let bytes = outcome?.status == 0 ? try size(copy) : try loaded(executable)
        return Double(bytes) / 1e6
    }

    private static func size(_ path: String) throws -> Int {
        var status = stat()
        try syscall("stat \(path)") { stat(path, &status) }
        return Int(status.st_size)
    }

    /// Where there is no `strip`: the bytes of the file that the kernel maps (ELF-64 program headers of type PT_LOAD,
    /// elf(5)), which are what stripping leaves but for a few hundred.
    private static func loaded(_ path: String) throws -> Int {
        let file = try Data(contentsOf: URL(fileURLWithPath: path), options: .alwaysMapped)
        return try file.withUnsafeBytes { bytes in
            guard bytes.count >= MemoryLayout<Elf64_Ehdr>.size, bytes.starts(with: [0x7F, 0x45, 0x4C, 0x46, 2]) else {
                throw Playground.Failure("\(path) is not an ELF-64 executable")
            }
            let header = bytes.loadUnaligned(as: Elf64_Ehdr.self)
            return try (0..<Int(header.e_phnum)).reduce(0) { sum, index in
                let offset = Int(header.e_phoff) + index * Int(header.e_phentsize)
                guard offset + MemoryLayout<Elf64_Phdr>.size <= bytes.count else {
                    throw Playground.Failure("\(path) ends within its program headers")
                }
                let segment = bytes.loadUnaligned(fromByteOffset: offset, as: Elf64_Phdr.self)
                return sum + (segment.p_type == 1 ? Int(segment.p_filesz) : 0)
            }
        }
    }
}

extension Memory {
    /// The most that a process ever held (`VmHWM` of /proc/PID/status, proc(5)).
    /// - Returns: MiB.
    static func peak(of process: Int32) throws -> Double {
        let line = try TextFile.read("/proc/\(process)/status").split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
        return (line?.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Double($0) } ?? 0) / 1024
    }
}
