import Glibc
public import KnetCore
import KnetLinux
import Synchronization

/// The last of what became of connections, with the names that their ends had then.
public final class HeldFlows: Sendable {
    struct Record: Sendable {
        /// Counts all events since the start.
        let number: Int
        /// Seconds since 1970.
        let time: Int
        let event: FlowEvent
        let sourcePod: String?
        let destinationPod: String?
        let service: String?
    }

    /// A connection by its two ends.
    private struct Connection: Hashable {
        let transport: UInt8
        let source: FlowEvent.End
        let destination: FlowEvent.End
    }

    private struct Contents {
        var names = FlowNames()
        /// A ring: the event with number n is at (n - 1) % kept.
        var ring: [Record] = []
        var count = 0
        var counts: [FlowEvent.Kind: Int] = [:]
        /// Connections that left the host's stack, of which that will say that they have ended.
        var moved: Set<Connection> = []
    }

    private let kept: Int
    private let contents = Mutex(Contents())

    public init(_ settings: Flows.Settings) { kept = settings.kept }

    func follow(_ keys: Set<ObjectKey>, in state: ClusterState) {
        contents.withLock { $0.names.follow(keys, in: state) }
    }

    /// Those behind the number, the oldest first.
    func records(after number: Int, where isWanted: (Record) -> Bool) -> (found: [Record], last: Int) {
        contents.withLock { contents in
            let first = max(number, contents.count - contents.ring.count)
            let found = first < contents.count ? (first..<contents.count).map { contents.ring[$0 % kept] } : []
            return (found.filter(isWanted), contents.count)
        }
    }

    var counts: [FlowEvent.Kind: Int] { contents.withLock { $0.counts } }

    // MARK: What is told

    /// What conntrack tells: of it, connections of pods and Services.
    func note(_ connection: TrackedConnection) {
        var event = FlowEvent(
            connection.isNew ? .began : .ended, transport: connection.transport, from: connection.source,
            to: connection.answerer)
        if connection.asked != connection.answerer { event.asked = connection.asked }
        event.counts = connection.counts
        note(event)
    }

    public func note(_ event: FlowEvent) {
        let now = time(nil)
        contents.withLock { contents in
            let connection = Connection(
                transport: event.transport, source: event.source, destination: event.destination)
            if event.kind == .moved {
                if contents.moved.count >= kept { contents.moved = [] }
                contents.moved.insert(connection)
                return
            }
            if event.kind == .ended, !event.isPastStack, contents.moved.remove(connection) != nil { return }
            let record = Record(
                number: contents.count + 1, time: now, event: event,
                sourcePod: contents.names.pod(at: event.source.address),
                destinationPod: contents.names.pod(at: event.destination.address),
                service: contents.names.service(at: event.asked ?? event.destination))
            guard record.sourcePod != nil || record.destinationPod != nil || record.service != nil else { return }
            if contents.ring.count < kept {
                contents.ring.append(record)
            } else {
                contents.ring[contents.count % kept] = record
            }
            contents.count += 1
            contents.counts[event.kind, default: 0] += 1
        }
    }
}

extension HeldFlows.Record {
    /// As `knetd observe --json` prints it.
    var told: JSONValue {
        var object: [String: JSONValue] = [
            "number": .integer(number), "time": .string(Timestamp.text(time)), "event": .string(event.kind.rawValue),
            "protocol": .string(Self.transport(event.transport)), "source": .string("\(event.source.address)"),
            "destination": .string("\(event.destination.address)"),
            "pastStack": .boolean(event.isPastStack),
        ]
        object["sourcePort"] = event.source.port.map { .integer(Int($0)) }
        object["port"] = event.destination.port.map { .integer(Int($0)) }
        object["sourcePod"] = sourcePod.map(JSONValue.string)
        object["destinationPod"] = destinationPod.map(JSONValue.string)
        object["service"] = service.map(JSONValue.string)
        object["reason"] = event.reason.map(JSONValue.string)
        if let asked = event.asked {
            object["asked"] = .string("\(asked.address)")
            object["askedPort"] = asked.port.map { .integer(Int($0)) }
        }
        if let counts = event.counts {
            func told(_ count: FlowEvent.Count) -> JSONValue {
                ["packets": .integer(Int(clamping: count.packets)), "bytes": .integer(Int(clamping: count.bytes))]
            }
            object["sent"] = told(counts.sent)
            object["answered"] = told(counts.answered)
        }
        return .object(object)
    }

    private static func transport(_ number: UInt8) -> String {
        HostPort.Transport.allCases.first { $0.number == number }?.rawValue
            ?? [1: "icmp", 58: "icmpv6"][number] ?? "\(number)"
    }
}
