import CBPF
import CKnetBPF
import Glibc
import KnetCore
import KnetLinux
import Synchronization

/// What the programs tell through their ring: questions at once, the rest when somebody comes by.
final class FlowEvents: Sendable {
    private let ring: BPFMap
    private let visit: @Sendable (knet_event) -> Void
    private let isOver = Atomic(false)

    private static let pause: Int32 = 200

    init(_ ring: BPFMap, visit: @escaping @Sendable (knet_event) -> Void) {
        self.ring = ring
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
        while !isOver.load(ordering: .relaxed) {
            // One that is woken for is all that this waits for.
            if ring_buffer__poll(reader, Self.pause) <= 0 { ring_buffer__consume(reader) }
        }
    }
}

extension knet_event {
    /// - Returns: the end who began, and the one who answers.
    var addresses: (IPAddress, IPAddress)? {
        func address(_ address: knet_address) -> IPAddress? { withUnsafeBytes(of: address) { MapForm.address(Array($0)) } }
        guard let first = address(ends.0), let second = address(ends.1) else { return nil }
        return (first, second)
    }

    /// `nil` where it is none.
    var question: VerdictExchange.Question? {
        guard kind == KNET_EVENT_QUESTION.rawValue, let addresses else { return nil }
        return VerdictExchange.Question(
            source: addresses.0, destination: addresses.1, transport: transport, port: UInt16(bigEndian: ports.1))
    }
}
