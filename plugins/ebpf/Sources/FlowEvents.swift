import CBPF
import CKnetBPF
import Glibc
import KnetCore
import KnetLinux
import Synchronization

/// What the programs tell through their ring: questions at once, the rest when somebody comes by.
final class FlowEvents: Sendable {
    private let ring: BPFMap
    private let maps: Swept?
    private let visit: @Sendable (knet_event) -> Void
    private let isListening = Atomic(false)
    private let isOver = Atomic(false)

    private static let pause: Int32 = 200

    /// Seconds between two looks for connections that are over.
    private static let sweep = 10
    /// Nanoseconds for which the last packets of a stream may be under way.
    private static let lateness = 10_000_000_000

    /// - Parameters:
    ///   - maps: where to look for those; `nil`: nowhere.
    ///   - visit: called from one thread.
    init(_ ring: BPFMap, sweeping maps: Swept?, visit: @escaping @Sendable (knet_event) -> Void) {
        self.ring = ring
        self.maps = maps
        self.visit = visit
    }

    /// Reads until the task is cancelled, once: a task that is cancelled before it starts has read.
    func run() async {
        await withTaskCancellationHandler {
            try? await onOwnThread("knetd-flows") { self.read() }
        } onCancel: {
            isOver.store(true, ordering: .relaxed)
        }
    }

    private func read() {
        let context = Unmanaged.passUnretained(self).toOpaque()
        let reader = ring_buffer__new(
            ring.descriptor.number,
            { context, bytes, count in
                guard let context, let bytes, count == MemoryLayout<knet_event>.size else { return 0 }
                let reader = Unmanaged<FlowEvents>.fromOpaque(context).takeUnretainedValue()
                return reader.take(bytes.loadUnaligned(as: knet_event.self))
            }, context, nil)
        guard let reader else { return }
        defer { ring_buffer__free(reader) }
        // What was told while nobody listened was told at another time.
        ring_buffer__consume(reader)
        isListening.store(true, ordering: .relaxed)
        var last = Self.now
        while !isOver.load(ordering: .relaxed) {
            if let maps, Self.now - last >= Self.sweep * 1_000_000_000 {
                last = Self.now
                sweep(maps)
            }
            // One that is woken for is all that this waits for.
            if ring_buffer__poll(reader, Self.pause) <= 0 { ring_buffer__consume(reader) }
        }
    }
}

extension FlowEvents {
    /// - Returns: less than 0 where no more is to be read: a ring that fills as fast would be read for ever.
    private func take(_ event: knet_event) -> Int32 {
        if isListening.load(ordering: .relaxed) || event.kind == KNET_EVENT_QUESTION.rawValue { visit(event) }
        return isOver.load(ordering: .relaxed) ? -1 : 0
    }

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

    /// Forgets what is over, so that it does not take the room of what is idle. The programs themselves told of the ends of streams.
    private func sweep(_ maps: Swept) {
        let now = Self.now
        var (flows, ways): ([(key: [UInt8], event: knet_event?)], [(keys: [[UInt8]], event: knet_event?)]) = ([], [])
        try? maps.flows.visit { key, value in
            let (connection, flow) = (MapForm.read(key, knet_connection.self), MapForm.read(value, knet_flow.self))
            if Self.isForgotten(connection.transport, seen: flow.seen, now) {
                flows.append((Array(key), knet_event(ending: connection, flow)))
            } else if flow.isOver, now - Int(flow.seen) > Self.lateness {
                flows.append((Array(key), nil))
            }
        }
        try? maps.translations.visit { key, value in
            let (way, translation) = (
                MapForm.read(key, knet_connection.self), MapForm.read(value, knet_translation.self)
            )
            let isForgotten = Self.isForgotten(way.transport, seen: translation.seen, now)
            guard translation.kind == KNET_TO_ENDPOINT.rawValue,
                isForgotten || translation.ended != 0 && now - Int(translation.seen) > Self.lateness
            else { return }
            let back = withUnsafeBytes(of: translation.back(of: way)) { Array($0) }
            let answer = maps.translations.value(back).map { MapForm.read($0[...], knet_translation.self) }
            if isForgotten {
                let isTold = translation.is_direct == 0 && translation.is_left == 0
                ways.append(([Array(key), back], isTold ? knet_event(ending: way, translation, answer) : nil))
            } else if answer?.ended != 0 {
                ways.append(([Array(key), back], nil))
            }
        }
        for (key, event) in flows {
            try? maps.flows.remove(key)
            if let event { visit(event) }
        }
        for (keys, event) in ways {
            for key in keys { try? maps.translations.remove(key) }
            if let event { visit(event) }
        }
    }

    /// Maps of connections.
    struct Swept {
        let flows: BPFMap
        let translations: BPFMap
    }
}

extension knet_flow {
    fileprivate var isOver: Bool {
        let (reset, both) = (UInt32(KNET_RESET), UInt32(KNET_ENDED_BOTH))
        return ended & reset != 0 || ended & both == both
    }
}

extension knet_translation {
    /// The way of the answers.
    fileprivate func back(of way: knet_connection) -> knet_connection {
        var back = knet_connection()
        back.ends = (ends.1, ends.0)
        back.ports = (ports.1, ports.0)
        back.transport = way.transport
        return back
    }
}

extension knet_event {
    fileprivate init(ending connection: knet_connection, _ flow: knet_flow) {
        self.init()
        func turned<Value>(_ pair: (Value, Value)) -> (Value, Value) {
            flow.beginner == 0 ? pair : (pair.1, pair.0)
        }
        kind = KNET_EVENT_ENDED.rawValue
        transport = connection.transport
        (ends, ports) = (turned(connection.ends), turned(connection.ports))
        (links, packets, bytes) = (
            turned((flow.pods.0.link, flow.pods.1.link)), turned(flow.packets), turned(flow.bytes)
        )
    }

    fileprivate init(ending way: knet_connection, _ translation: knet_translation, _ answer: knet_translation?) {
        self.init()
        kind = KNET_EVENT_ENDED.rawValue
        transport = way.transport
        ends = (way.ends.0, translation.ends.1)
        ports = (way.ports.0, translation.ports.1)
        (asked, asked_port) = (way.ends.1, way.ports.1)
        packets = (translation.packets, answer?.packets ?? 0)
        bytes = (translation.bytes, answer?.bytes ?? 0)
    }

    /// What others are told; `nil` for a question.
    var told: FlowEvent? {
        let kinds: [UInt32: FlowEvent.Kind] = [
            KNET_EVENT_BEGAN.rawValue: .began, KNET_EVENT_ENDED.rawValue: .ended, KNET_EVENT_MOVED.rawValue: .moved,
        ]
        guard let kind = kinds[kind], let addresses else { return nil }
        let hasPorts = [UInt8(IPPROTO_TCP), UInt8(IPPROTO_UDP)].contains(transport)
        func end(_ address: IPAddress, _ port: UInt16) -> FlowEvent.End {
            .init(address, port: hasPorts ? UInt16(bigEndian: port) : nil)
        }
        var event = FlowEvent(
            kind, transport: transport, from: end(addresses.0, ports.0), to: end(addresses.1, ports.1))
        event.isPastStack = true
        let asked = withUnsafeBytes(of: asked) { Array($0) }
        if asked.contains(where: { $0 != 0 }), let address = MapForm.address(asked) {
            event.asked = end(address, asked_port)
        }
        if kind == .ended {
            event.counts = (.init(packets: packets.0, bytes: bytes.0), .init(packets: packets.1, bytes: bytes.1))
        }
        return event
    }

    /// - Returns: the end who began, and the one who answers.
    var addresses: (IPAddress, IPAddress)? {
        func address(_ address: knet_address) -> IPAddress? {
            withUnsafeBytes(of: address) { MapForm.address(Array($0)) }
        }
        guard let first = address(ends.0), let second = address(ends.1) else { return nil }
        return (first, second)
    }

    /// `nil` where it is none.
    var question: VerdictExchange.Question? {
        guard kind == KNET_EVENT_QUESTION.rawValue, let addresses else { return nil }
        return VerdictExchange.Question(
            source: addresses.0, destination: addresses.1, transport: transport, port: UInt16(bigEndian: ports.1),
            isLocal: (links.0 != 0, links.1 != 0))
    }
}
