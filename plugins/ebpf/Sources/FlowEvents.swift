import CBPF
import CKnetBPF
import Glibc
import KnetCore
import KnetLinux
import Synchronization

/// What the programs tell through their ring: questions at once, the rest when somebody comes by.
final class FlowEvents: Sendable {
    private let ring: BPFMap
    private let maps: FlowMaps?
    private let samplePause: Duration
    private let visit: @Sendable (knet_event) -> Void
    private let isListening = Atomic(false)
    private let isOver = Atomic(false)

    /// Milliseconds.
    private static let pause: Int32 = 200
    /// Between two looks for connections that are over.
    private static let sweepPause = Duration.seconds(10)

    /// - Parameters:
    ///   - maps: where to look for those; `nil`: nowhere.
    ///   - samplePause: until the largest of those that go on are told again; 0: they are not.
    ///   - visit: called from one thread.
    init(
        _ ring: BPFMap, sweeping maps: FlowMaps?, samplePause: Duration, visit: @escaping @Sendable (knet_event) -> Void
    ) {
        self.ring = ring
        self.maps = maps
        self.samplePause = samplePause
        self.visit = visit
    }

    /// Reads until the task is cancelled, once: a task that is cancelled before it starts has read.
    /// - Returns: why the ring cannot be read.
    func run() async -> (any Error)? {
        await withTaskCancellationHandler {
            do {
                return try await onOwnThread("knetd-flows") { self.read() }
            } catch {
                return error
            }
        } onCancel: {
            isOver.store(true, ordering: .relaxed)
        }
    }

    private func read() -> SystemError? {
        let context = Unmanaged.passUnretained(self).toOpaque()
        let reader = ring_buffer__new(
            ring.descriptor.number,
            { context, bytes, count in
                guard let context, let bytes, count == MemoryLayout<knet_event>.size else { return 0 }
                let reader = Unmanaged<FlowEvents>.fromOpaque(context).takeUnretainedValue()
                return reader.take(bytes.loadUnaligned(as: knet_event.self))
            }, context, nil)
        guard let reader else { return SystemError("read the ring of the programs' events") }
        defer { ring_buffer__free(reader) }
        // What was told while nobody listened was told at another time.
        ring_buffer__consume(reader)
        isListening.store(true, ordering: .relaxed)
        let clock = ContinuousClock()
        var swept = clock.now
        var sampled = swept
        while !isOver.load(ordering: .relaxed) {
            if let maps, clock.now - swept >= Self.sweepPause {
                swept = clock.now
                for event in maps.forgetWhatIsOver() { visit(event) }
            }
            if let maps, samplePause > .zero, clock.now - sampled >= samplePause {
                sampled = clock.now
                for event in maps.largest() { visit(event) }
            }
            // One that is woken for is all that this waits for.
            if ring_buffer__poll(reader, Self.pause) <= 0 { ring_buffer__consume(reader) }
        }
        return nil
    }

    /// - Returns: less than 0 where no more is to be read: a ring that fills as fast would be read for ever.
    private func take(_ event: knet_event) -> Int32 {
        if isListening.load(ordering: .relaxed) || event.kind == KNET_EVENT_QUESTION.rawValue { visit(event) }
        return isOver.load(ordering: .relaxed) ? -1 : 0
    }
}

extension knet_event {
    /// What others are told; `nil` for a question.
    var told: FlowEvent? {
        let kinds: [UInt32: FlowEvent.Kind] = [
            KNET_EVENT_BEGAN.rawValue: .began, KNET_EVENT_ENDED.rawValue: .ended, KNET_EVENT_MOVED.rawValue: .moved,
            KNET_EVENT_RUNNING.rawValue: .running,
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
        if kind == .ended || kind == .running {
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
