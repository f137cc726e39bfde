import Dispatch
import Glibc
import Synchronization

/// Tells on standard error what is being measured, and ends the run where somebody asks for that.
enum Progress {
    /// Ctrl-C or SIGTERM came. Everything is taken down on the way out.
    struct Interrupted: Error, CustomStringConvertible {
        let description = "interrupted"
    }

    private static let isInterrupted = Atomic(false)

    /// Turns SIGINT and SIGTERM into an error at the next step. Every step is bounded in time.
    /// - Returns: what must be kept while that holds.
    static func catchSignals() -> [any DispatchSourceSignal] {
        [SIGINT, SIGTERM].map { number in
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler { isInterrupted.store(true, ordering: .relaxed) }
            source.resume()
            return source
        }
    }

    /// - Throws: `Interrupted`.
    static func check() throws {
        if isInterrupted.load(ordering: .relaxed) { throw Interrupted() }
    }

    /// - Throws: `Interrupted`.
    static func step(_ text: String) throws {
        try check()
        say(text)
    }

    static func say(_ text: String) {
        let bytes = Array((text + "\n").utf8)
        _ = write(STDERR_FILENO, bytes, bytes.count)
    }
}
