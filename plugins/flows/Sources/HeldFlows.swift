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
    fileprivate struct Connection: Hashable {
        let transport: UInt8
        let source: FlowEvent.End
        let destination: FlowEvent.End
    }

    fileprivate struct Names {
        let sourcePod: String?
        let destinationPod: String?
        let service: String?

        var areNone: Bool { sourcePod == nil && destinationPod == nil && service == nil }
    }

    /// A connection that has begun.
    fileprivate struct Open {
        var names: Names
        /// Whose end counts: the stack's, or that of the programs.
        var isPastStack: Bool
        /// Whether the stack knew it first, and will say that it has ended.
        var isStacks = false
        /// Whether its end was told, and the stack's word is awaited.
        var isOver = false
    }

    fileprivate struct Drop: Hashable {
        let kind: FlowEvent.Kind
        let connection: Connection
        let reason: String?
    }

    fileprivate struct Contents {
        var names = FlowNames()
        /// A ring: the event with number n is at (n - 1) % kept.
        var ring: [Record] = []
        var count = 0
        var counts: [FlowEvent.Kind: Int] = [:]
        /// An end has the names of the beginning: pods may be gone by then.
        var open: [Connection: Open] = [:]
        /// When it was last told: who is denied sends again, which is told once a minute.
        var drops: [Drop: Int] = [:]
    }

    /// Connections that have begun, and drops, of which is remembered what was told.
    fileprivate static let remembered = 65_536
    fileprivate static let dropPause = 60

    private let kept: Int
    private let contents = Mutex(Contents())

    public init(_ settings: Flows.Settings) { kept = settings.kept }

    func follow(_ keys: Set<ObjectKey>, in state: ClusterState) {
        contents.withLock { $0.names.follow(keys, in: state) }
    }

    /// Those behind the number, the oldest first; all where there are not so many, as after a restart.
    func records(after number: Int, where isWanted: (Record) -> Bool) -> (found: [Record], last: Int) {
        let (ring, count) = contents.withLock { ($0.ring, $0.count) }
        let first = max(number > count ? 0 : number, count - ring.count)
        let found = first < count ? (first..<count).map { ring[$0 % kept] } : []
        return (found.filter(isWanted), count)
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
            guard let names = contents.names(of: event, now) else { return }
            let record = Record(
                number: contents.count + 1, time: now, event: event, sourcePod: names.sourcePod,
                destinationPod: names.destinationPod, service: names.service)
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

extension HeldFlows.Contents {
    /// - Returns: `nil` where the event is not to be told: it was told by another, or concerns nobody who has a name.
    fileprivate mutating func names(of event: FlowEvent, _ now: Int) -> HeldFlows.Names? {
        let connection = HeldFlows.Connection(
            transport: event.transport, source: event.source, destination: event.destination)
        switch event.kind {
        case .moved:
            move(connection)
            return nil
        case .began:
            // Echoes leave the stack without a word.
            if event.isPastStack, open[connection]?.isPastStack == false {
                move(connection)
                return nil
            }
            let names = current(event)
            if names.areNone { return nil }
            if open.count >= HeldFlows.remembered { open = [:] }
            open[connection] = HeldFlows.Open(names: names, isPastStack: event.isPastStack)
            return names
        case .running:
            if let known = open[connection] { return known.names }
        case .ended:
            if let known = open[connection] { return end(connection, known, event) }
        case .denied, .refused:
            let drop = HeldFlows.Drop(kind: event.kind, connection: connection, reason: event.reason)
            if let last = drops[drop], now - last < HeldFlows.dropPause { return nil }
            if drops.count >= HeldFlows.remembered { drops = [:] }
            drops[drop] = now
        }
        let names = current(event)
        return names.areNone ? nil : names
    }

    private mutating func move(_ connection: HeldFlows.Connection) {
        open[connection]?.isPastStack = true
        open[connection]?.isStacks = true
    }

    private mutating func end(
        _ connection: HeldFlows.Connection, _ known: HeldFlows.Open, _ event: FlowEvent
    ) -> HeldFlows.Names? {
        guard known.isPastStack == event.isPastStack else {
            // The stack has forgotten what left it, before its end or after.
            open[connection]?.isStacks = false
            if known.isOver { open[connection] = nil }
            return nil
        }
        if known.isOver { return nil }
        if known.isStacks {
            open[connection]?.isOver = true
        } else {
            open[connection] = nil
        }
        return known.names
    }

    private func current(_ event: FlowEvent) -> HeldFlows.Names {
        HeldFlows.Names(
            sourcePod: names.pod(at: event.source.address), destinationPod: names.pod(at: event.destination.address),
            service: names.service(
                at: event.asked ?? event.destination, transport: event.transport, anyPort: event.kind == .refused))
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
