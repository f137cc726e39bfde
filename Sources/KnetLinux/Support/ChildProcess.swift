import CMnl
import Glibc

/// Starts programs inside network namespaces.
public enum ChildProcess {
    /// What a program left behind.
    public struct Outcome: Sendable {
        /// Exit status; 128 and the signal's number where a signal ended it.
        public let status: Int32
        public let output: String
        public let errors: String
    }

    /// Runs a program to its end.
    /// - Parameters:
    ///   - arguments: without the program's own name.
    ///   - environment: beside the caller's.
    ///   - input: given on standard input.
    ///   - namespace: `nil` for the caller's own.
    ///   - seconds: after which the program is killed; `nil` waits for ever.
    /// - Throws: `ETIMEDOUT` where it had to be killed.
    public static func run(
        _ executable: String, _ arguments: [String], environment: [String: String] = [:], input: String = "",
        in namespace: NetworkNamespace? = nil, seconds: Int? = nil
    ) throws -> Outcome {
        let stdin = try Pipe()
        let stdout = try Pipe()
        let stderr = try Pipe()
        let process = try spawn(
            executable, arguments, environment: environment, in: namespace, newSession: false,
            descriptors: [stdin.reading, stdout.writing, stderr.writing])
        for descriptor in [stdin.reading, stdout.writing, stderr.writing] { close(descriptor) }
        let bytes = Array(input.utf8)
        // A program that does not read its input must not end this one by SIGPIPE: input of ours fits a pipe's buffer.
        signal(SIGPIPE, SIG_IGN)
        if !bytes.isEmpty { _ = write(stdin.writing, bytes, bytes.count) }
        close(stdin.writing)
        let deadline = seconds.map { ContinuousClock.now + .seconds($0) }
        guard let texts = readAll([stdout.reading, stderr.reading], deadline: deadline) else {
            kill(process, SIGKILL)
            _ = wait(process)
            throw SystemError("run \(executable)", errno: ETIMEDOUT, detail: "killed after \(seconds ?? 0) s")
        }
        return Outcome(status: wait(process), output: texts[0], errors: texts[1])
    }

    /// Starts a program that goes on by itself, in a session of its own.
    /// - Parameter log: receives its output.
    /// - Returns: its process id.
    public static func start(
        _ executable: String, _ arguments: [String], environment: [String: String] = [:],
        in namespace: NetworkNamespace?, log: String
    ) throws -> Int32 {
        let null = try Descriptor(opening: "/dev/null")
        let file = try Descriptor(opening: log, O_WRONLY | O_CREAT | O_APPEND)
        return try spawn(
            executable, arguments, environment: environment, in: namespace, newSession: true,
            descriptors: [null.number, file.number, file.number])
    }

    /// Ends a child of this process that was started.
    public static func end(_ process: Int32) {
        kill(process, SIGTERM)
        _ = wait(process)
    }

    /// Waits for a child of this process.
    public static func wait(_ process: Int32) -> Int32 {
        var status: Int32 = 0
        while waitpid(process, &status, 0) < 0 && errno == EINTR {}
        return status & 0x7F == 0 ? (status >> 8) & 0xFF : 128 + (status & 0x7F)
    }

    private static func spawn(
        _ executable: String, _ arguments: [String], environment: [String: String], in namespace: NetworkNamespace?,
        newSession: Bool, descriptors: [Int32]
    ) throws -> Int32 {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (number, descriptor) in descriptors.enumerated() {
            posix_spawn_file_actions_adddup2(&actions, descriptor, Int32(number))
        }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // Signals that this process ignores are not to be ignored by others.
        var all = sigset_t()
        sigfillset(&all)
        posix_spawnattr_setsigdefault(&attributes, &all)
        // Nor are those to be blocked that a thread of this process blocks.
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        // POSIX_SPAWN_SETSIGDEF, POSIX_SPAWN_SETSIGMASK and POSIX_SPAWN_SETSID of <spawn.h>.
        posix_spawnattr_setflags(&attributes, newSession ? 0x8C : 0x0C)
        let own = currentEnvironment().merging(environment) { $1 }
        let argv = ([executable] + arguments).map { strdup($0) } + [nil]
        let envp = own.map { strdup("\($0)=\($1)") } + [nil]
        defer { for text in argv + envp { free(text) } }
        var process: Int32 = 0
        let spawn = { posix_spawnp(&process, executable, &actions, &attributes, argv, envp) }
        let status = try namespace.map { try $0.run(spawn) } ?? spawn()
        guard status == 0 else { throw SystemError("start \(executable)", errno: status) }
        return process
    }

    private static func currentEnvironment() -> [String: String] {
        var variables: [String: String] = [:]
        var entry = environ
        while let text = entry.pointee.map({ String(cString: $0) }) {
            let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if parts.count == 2 { variables[String(parts[0])] = String(parts[1]) }
            entry += 1
        }
        return variables
    }

    private struct Pipe {
        let reading: Int32
        let writing: Int32

        init() throws {
            var ends: [Int32] = [0, 0]
            // Closed on exec from the first moment: a program that another thread starts would hold it open for its life.
            try syscall("pipe") { pipe2(&ends, O_CLOEXEC) }
            reading = ends[0]
            writing = ends[1]
        }
    }

    /// Reads several pipes to their ends, as data comes, and closes them.
    /// - Returns: `nil` where the ends did not come by the deadline.
    private static func readAll(_ descriptors: [Int32], deadline: ContinuousClock.Instant?) -> [String]? {
        var collected = [[UInt8]](repeating: [], count: descriptors.count)
        var isOpen = Set(descriptors.indices)
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while !isOpen.isEmpty {
            var polled = isOpen.sorted().map { pollfd(fd: descriptors[$0], events: Int16(POLLIN), revents: 0) }
            let left = deadline.map { max(Int32(($0 - ContinuousClock.now) / .milliseconds(1)), 0) }
            if poll(&polled, nfds_t(polled.count), left ?? -1) == 0 {
                for descriptor in isOpen { close(descriptors[descriptor]) }
                return nil
            }
            for (index, entry) in zip(isOpen.sorted(), polled) where entry.revents != 0 {
                let count = read(entry.fd, &buffer, buffer.count)
                if count > 0 {
                    collected[index] += buffer[..<count]
                } else {
                    isOpen.remove(index)
                    close(entry.fd)
                }
            }
        }
        return collected.map { String(decoding: $0, as: UTF8.self) }
    }
}
