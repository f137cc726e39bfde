import KnetCore
import Synchronization

/// Answers queries over TCP, and counts them.
final class StreamCounters: Sendable {
    private let settings: ServerSettings
    private let gate: Mutex<Gatekeeper>
    private let counters = Mutex(QueryCounters())

    init(_ settings: ServerSettings) {
        self.settings = settings
        gate = Mutex(Gatekeeper(allowed: settings.allowed, rate: settings.rate))
    }

    var counts: QueryCounters { counters.withLock { $0 } }

    func answer(_ query: [UInt8], _ client: IPAddress, _ recursor: Recursor) async -> [UInt8]? {
        let start = Clock.precise
        let refuses = gate.withLock { $0.refuses(client, now: start / 1_000_000) }
        guard let (reply, facts) = await recursor.answer(query, from: client, refuses: refuses, isDatagram: false)
        else { return nil }
        counters.withLock { counts in
            counts.add(facts, client.family, isDatagram: false, bytes: reply.count)
            counts.observe(seconds: Double(Clock.precise - start) / 1e9, count: 1)
        }
        return reply
    }
}
