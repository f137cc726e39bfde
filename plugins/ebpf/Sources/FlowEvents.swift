import CBPF
import CKnetBPF
import Glibc
import KnetCore
import KnetLinux
import Synchronization

/// What the programs tell through their ring: questions at once, the rest when somebody comes by.
final class FlowEvents: Sendable {
    private let ring: BPFMap
    private let flows: BPFMap?
    private let visit: @Sendable (knet_event) -> Void
    private let isOver = Atomic(false)

    private static let pause: Int32 = 200

    /// Seconds between two looks for connections of datagrams that are over.
    private static let sweep = 30

    /// - Parameters:
    ///   - flows: where to look for those; `nil`: nowhere.
    ///   - visit: called from one thread.
    init(_ ring: BPFMap, sweeping flows: BPFMap?, visit: @escaping @Sendable (knet_event) -> Void) {
        self.ring = ring
        self.flows = flows
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
                Unmanaged<FlowEvents>.fromOpaque(context).takeUnretainedValue()
                    .visit(bytes.loadUnaligned(as: knet_event.self))
                return 0
            }, context, nil)
        guard let reader else { return }
        defer { ring_buffer__free(reader) }
        var last = Self.now
        while !isOver.load(ordering: .relaxed) {
            if let flows, Self.now - last >= Self.sweep * 1_000_000_000 {
                last = Self.now
                sweep(flows)
            }
            // One that is woken for is all that this waits for.
            if ring_buffer__poll(reader, Self.pause) <= 0 { ring_buffer__consume(reader) }
        }
    }
}

extension FlowEvents {
    /// The clock of the programs, in nanoseconds.
    private static var now: Int {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return time.tv_sec * 1_000_000_000 + time.tv_nsec
    }

    /// Datagrams and echoes have no end: connections of them are over when none came for so long.
    private func sweep(_ flows: BPFMap) {
        let now = Self.now
        var over: [(key: [UInt8], event: knet_event)] = []
        try? flows.visit { key, value in
            let connection = key.withUnsafeBytes { $0.loadUnaligned(as: knet_connection.self) }
            let flow = value.withUnsafeBytes { $0.loadUnaligned(as: knet_flow.self) }
            guard connection.transport != UInt8(IPPROTO_TCP), now - Int(flow.seen) > KNET_UDP_LIFETIME else { return }
            over.append((Array(key), knet_event(ending: connection, flow)))
        }
        for (key, event) in over {
            try? flows.remove(key)
            visit(event)
        }
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
        (links, packets, bytes) = (turned(flow.links), turned(flow.packets), turned(flow.bytes))
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
