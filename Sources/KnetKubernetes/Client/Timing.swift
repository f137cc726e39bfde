/// How patient the client is. Tests have less time.
struct Timing: Sendable {
    /// The first and the longest time between two attempts.
    var retries: ClosedRange<Duration> = .milliseconds(200)...(.seconds(10))
    /// After so long a kind that the server does not have is asked for again: its definition may be installed by then.
    var absence = Duration.seconds(60)
    /// A stream that says nothing for so long is gone; a server that watches sends a bookmark every minute.
    var silence = Duration.seconds(100)
    /// How long the server is to keep a watch, in seconds; different for all, so that not all come back at once.
    var watchSeconds = 300...600
    /// Requests in a second, and how many more at once: a fault of ours must not become the server's.
    var requestsPerSecond = 20
    var burst = 40
}
