import CKnetBPF
import Glibc
import KnetCore

/// Maps of connections past the host's stack, as the daemon looks at them.
struct FlowMaps: Sendable {
    let flows: BPFMap
    let translations: BPFMap

    /// Nanoseconds for which the last packets of a stream may be under way.
    private static let lateness = 10_000_000_000
    /// So many are told of those that go on.
    private static let sample = 32

    /// The clock of the programs, in nanoseconds.
    private static var now: Int {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return time.tv_sec * 1_000_000_000 + time.tv_nsec
    }

    /// Datagrams and echoes have no end: connections of them are over when none came for so long.
    private static func isForgotten(_ transport: UInt8, seen: UInt64, _ now: Int) -> Bool {
        let lifetime = transport == UInt8(IPPROTO_UDP) ? KNET_UDP_LIFETIME : KNET_ECHO_LIFETIME
        return transport != UInt8(IPPROTO_TCP) && now - Int(seen) > lifetime
    }

    /// Forgets what is over, so that it does not take the room of what is idle.
    /// - Returns: what is to be told; of the ends of streams the programs themselves told.
    func forgetWhatIsOver() -> [knet_event] {
        let now = Self.now
        var told: [knet_event] = []
        var (over, ways): ([[UInt8]], [[UInt8]]) = ([], [])
        try? flows.visit { key, value in
            let (connection, flow) = (MapForm.read(key, knet_connection.self), MapForm.read(value, knet_flow.self))
            if Self.isForgotten(connection.transport, seen: flow.seen, now) {
                told.append(knet_event(KNET_EVENT_ENDED, connection, flow))
            } else if !flow.isOver || now - Int(flow.seen) <= Self.lateness {
                return
            }
            over.append(Array(key))
        }
        visitOutside { outside in
            if Self.isForgotten(outside.way.transport, seen: outside.there.seen, now) {
                if outside.isTold { told.append(outside.event(KNET_EVENT_ENDED)) }
            } else if outside.there.ended == 0 || now - Int(outside.there.seen) <= Self.lateness
                || outside.answer?.ended == 0
            {
                return
            }
            ways += [outside.key, outside.back]
        }
        for key in over { try? flows.remove(key) }
        for key in ways { try? translations.remove(key) }
        return told
    }

    /// Of the connections that go on those that carried most.
    func largest() -> [knet_event] {
        let now = Self.now
        var found: [knet_event] = []
        func add(_ event: knet_event) {
            found.append(event)
            if found.count == 4 * Self.sample { found = Self.largest(of: found) }
        }
        try? flows.visit { key, value in
            let (connection, flow) = (MapForm.read(key, knet_connection.self), MapForm.read(value, knet_flow.self))
            if flow.isOver || flow.isLeft || Self.isForgotten(connection.transport, seen: flow.seen, now) { return }
            add(knet_event(KNET_EVENT_RUNNING, connection, flow))
        }
        visitOutside { outside in
            if outside.there.ended != 0 || !outside.isTold { return }
            if Self.isForgotten(outside.way.transport, seen: outside.there.seen, now) { return }
            add(outside.event(KNET_EVENT_RUNNING))
        }
        return Self.largest(of: found)
    }

    private static func largest(of events: [knet_event]) -> [knet_event] {
        Array(events.sorted { $0.allBytes > $1.allBytes }.prefix(sample))
    }

    private func visitOutside(_ body: (Outside) -> Void) {
        try? translations.visit { key, value in
            let outside = Outside(
                key: Array(key), way: MapForm.read(key, knet_connection.self),
                there: MapForm.read(value, knet_translation.self), translations: translations)
            if outside.there.kind == KNET_TO_ENDPOINT.rawValue { body(outside) }
        }
    }

    /// A connection of a client outside with a Service.
    private struct Outside {
        let key: [UInt8]
        let way: knet_connection
        let there: knet_translation
        let translations: BPFMap

        /// Whether no other node and not the stack tells of it.
        var isTold: Bool { there.is_direct == 0 && there.is_left == 0 }

        /// The key of the answers.
        var back: [UInt8] {
            var back = knet_connection()
            back.ends = (there.ends.1, there.ends.0)
            back.ports = (there.ports.1, there.ports.0)
            back.transport = way.transport
            return withUnsafeBytes(of: back) { Array($0) }
        }

        /// What becomes of those.
        var answer: knet_translation? {
            translations.value(back).map { MapForm.read($0[...], knet_translation.self) }
        }

        func event(_ kind: knet_event_kind) -> knet_event {
            var event = knet_event(kind, way.transport)
            let answer = answer
            event.ends = (way.ends.0, there.ends.1)
            event.ports = (way.ports.0, there.ports.1)
            (event.asked, event.asked_port) = (way.ends.1, way.ports.1)
            event.packets = (there.packets, answer?.packets ?? 0)
            event.bytes = (there.bytes, answer?.bytes ?? 0)
            return event
        }
    }
}

extension knet_flow {
    fileprivate var isOver: Bool {
        let (reset, both) = (UInt32(KNET_RESET), UInt32(KNET_ENDED_BOTH))
        return ended & reset != 0 || ended & both == both
    }

    fileprivate var isLeft: Bool { ended & UInt32(KNET_IS_LEFT) != 0 }
}

extension knet_event {
    fileprivate init(_ event: knet_event_kind, _ transport: UInt8) {
        self.init()
        kind = event.rawValue
        self.transport = transport
    }

    fileprivate init(_ event: knet_event_kind, _ connection: knet_connection, _ flow: knet_flow) {
        self.init(event, connection.transport)
        func turned<Value>(_ pair: (Value, Value)) -> (Value, Value) {
            flow.beginner == 0 ? pair : (pair.1, pair.0)
        }
        (ends, ports) = (turned(connection.ends), turned(connection.ports))
        (links, packets, bytes) = (
            turned((flow.pods.0.link, flow.pods.1.link)), turned(flow.packets), turned(flow.bytes)
        )
    }

    fileprivate var allBytes: UInt64 { bytes.0 &+ bytes.1 }
}
