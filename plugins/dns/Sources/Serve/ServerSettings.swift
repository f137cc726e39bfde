import KnetCore
import Logging

/// What the threads that answer are told.
struct ServerSettings: Sendable {
    /// Whose queries are answered; empty: everybody's.
    var allowed: [CIDR] = []
    /// Queries a second of one client; 0: as many as it likes.
    var rate = 0
    /// Every so many-th query is logged; 0: none.
    var logEvery = 0
    var log: @Sendable (UnsafeRawBufferPointer, IPAddress, Resolver.Facts) -> Void = { _, _, _ in }
}

extension ServerSettings {
    init(_ settings: DNSSettings, _ logger: Logger) {
        allowed = settings.allow
        rate = settings.queriesPerSecond
        logEvery = settings.logEvery
        log = { query, client, facts in
            let name = DomainName.read(query, at: Query.headerLength)?.name
            logger.info(
                "query",
                metadata: [
                    "op": "query", "client": "\(client)", "name": "\(name.map(\.description) ?? "?")",
                    "type": "\(RecordType.name(facts.type))", "code": "\(facts.code.name)",
                ])
        }
    }
}
