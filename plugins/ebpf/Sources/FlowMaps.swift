import CKnetBPF
import Glibc
import KnetCore
import KnetLinux

/// Maps of connections past the host's stack, as the daemon looks at them.
struct FlowMaps: Sendable {
    let flows: BPFMap
    let translations: BPFMap
    let endpoints: BPFMap

    /// Seconds for which the last packets of a stream may be under way,
    fileprivate static let lateness = 10.0
    /// for which the other end of one may yet answer where it does not come by here (conntrack has two minutes for it),
    fileprivate static let halfClosed = 120.0
    /// and after which one that goes on would have shown that it was not cut off.
    fileprivate static let cutOff = 300.0
    /// So many are told of those that go on.
    private static let sample = 32

    /// Seconds since the monotonic clock of the programs had these nanoseconds.
    fileprivate static func age(_ seen: UInt64) -> Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        let now = UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
        return Double(Int64(bitPattern: now &- seen)) / 1e9
    }

    /// Datagrams and echoes have no end: connections of them are over when none came for so long.
    fileprivate static func isForgotten(_ transport: UInt8, seen: UInt64) -> Bool {
        let lifetime = transport == UInt8(IPPROTO_UDP) ? KNET_UDP_LIFETIME : KNET_ECHO_LIFETIME
        return transport != UInt8(IPPROTO_TCP) && age(seen) > Double(lifetime) / 1e9
    }

    /// Links of pods that are there.
    private func links() throws(SystemError) -> Set<UInt32> {
        var links: Set<UInt32> = []
        try endpoints.visit { _, value in links.insert(MapForm.read(value, knet_endpoint.self).link) }
        return links
    }

    /// Forgets what is over, so that it does not take the room of what is idle.
    /// - Returns: what is to be told; of the ends of streams the programs themselves told.
    func forgetWhatIsOver() -> [knet_event] {
        // Where they cannot be read all would seem to be gone.
        guard let before = try? links() else { return [] }
        var over: [[UInt8]] = []
        try? flows.visit { key, value in
            let (connection, flow) = (MapForm.read(key, knet_connection.self), MapForm.read(value, knet_flow.self))
            if Self.isOver(connection, flow, before) { over.append(Array(key)) }
        }
        var ways: [[UInt8]] = []
        visitOutside { if $0.isOver(before) { ways.append($0.key) } }
        // A key may have become another connection's meanwhile, and a pod may have come.
        guard !over.isEmpty || !ways.isEmpty, let links = try? links() else { return [] }
        var told: [knet_event] = []
        for key in over {
            guard let value = flows.value(key) else { continue }
            let (connection, flow) = (
                MapForm.read(key[...], knet_connection.self), MapForm.read(value[...], knet_flow.self)
            )
            guard Self.isOver(connection, flow, links) else { continue }
            try? flows.remove(key)
            if !flow.isOver { told.append(knet_event(KNET_EVENT_ENDED, connection, flow)) }
        }
        for key in ways {
            guard let outside = translations.value(key).flatMap({ self.outside(key[...], $0[...]) }),
                outside.isOver(links)
            else { continue }
            try? translations.remove(key)
            let answer = outside.answer
            if answer != nil { try? translations.remove(outside.back) }
            if outside.there.ended == 0, outside.isTold { told.append(outside.event(KNET_EVENT_ENDED)) }
        }
        return told
    }

    /// - Parameter links: of pods that are there.
    private static func isOver(_ connection: knet_connection, _ flow: knet_flow, _ links: Set<UInt32>) -> Bool {
        isForgotten(connection.transport, seen: flow.seen) || flow.isOver && age(flow.seen) > lateness
            || [flow.pods.0.link, flow.pods.1.link].contains { $0 != 0 && !links.contains($0) }
    }

    /// Of the connections that go on those that carried most.
    func largest() -> [knet_event] {
        var found: [knet_event] = []
        func add(_ event: knet_event) {
            found.append(event)
            if found.count == 4 * Self.sample { found = Self.largest(of: found) }
        }
        try? flows.visit { key, value in
            let (connection, flow) = (MapForm.read(key, knet_connection.self), MapForm.read(value, knet_flow.self))
            if flow.isOver || flow.isLeft || Self.isForgotten(connection.transport, seen: flow.seen) { return }
            add(knet_event(KNET_EVENT_RUNNING, connection, flow))
        }
        visitOutside { outside in
            if outside.there.ended != 0 || !outside.isTold { return }
            if Self.isForgotten(outside.way.transport, seen: outside.there.seen) { return }
            add(outside.event(KNET_EVENT_RUNNING))
        }
        return Self.largest(of: found)
    }

    private static func largest(of events: [knet_event]) -> [knet_event] {
        Array(events.sorted { $0.allBytes > $1.allBytes }.prefix(sample))
    }

    private func visitOutside(_ body: (Outside) -> Void) {
        try? translations.visit { key, value in
            if let outside = outside(key, value) { body(outside) }
        }
    }

    /// - Returns: `nil` for the way of answers.
    private func outside(_ key: ArraySlice<UInt8>, _ value: ArraySlice<UInt8>) -> Outside? {
        let there = MapForm.read(value, knet_translation.self)
        guard there.kind == KNET_TO_ENDPOINT.rawValue else { return nil }
        return Outside(
            key: Array(key), way: MapForm.read(key, knet_connection.self), there: there, translations: translations)
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

        /// What becomes of those; `nil` where they do not come by here, or where that was forgotten or is another connection's.
        var answer: knet_translation? {
            translations.value(back).map { MapForm.read($0[...], knet_translation.self) }.flatMap { answer in
                answer.ends.0 == way.ends.1 && answer.ends.1 == way.ends.0 && answer.ports == (way.ports.1, way.ports.0)
                    ? answer : nil
            }
        }

        /// - Parameter links: of pods that are there.
        func isOver(_ links: Set<UInt32>) -> Bool {
            if there.link != 0, !links.contains(there.link) { return true }
            if way.transport == UInt8(IPPROTO_TCP)
                ? there.ended == 0 : !FlowMaps.isForgotten(way.transport, seen: there.seen)
            {
                return false
            }
            let answer = answer
            guard way.transport == UInt8(IPPROTO_TCP) else {
                return answer.map { FlowMaps.isForgotten(way.transport, seen: $0.seen) } ?? true
            }
            if answer?.ended == 0 { return false }
            let ends = [there.ended, answer?.ended].count { $0 == UInt32(KNET_FINISHED) }
            let age = min(FlowMaps.age(there.seen), answer.map { FlowMaps.age($0.seen) } ?? .infinity)
            return age > [FlowMaps.cutOff, FlowMaps.halfClosed, FlowMaps.lateness][ends]
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

extension knet_address {
    fileprivate static func == (one: Self, other: Self) -> Bool {
        withUnsafeBytes(of: one) { one in withUnsafeBytes(of: other) { one.elementsEqual($0) } }
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
