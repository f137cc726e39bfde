import KnetLinux
import Synchronization
import Testing

/// A reload can end a generation before its tasks have begun.
@Suite struct PacketListenerTests {
    @Test func aTaskThatIsCancelledBeforeItStartsListensToNothing() async throws {
        let run = Run()
        let listener = PacketListener(group: 47_000) { _ in }
        Task {
            withUnsafeCurrentTask { $0?.cancel() }
            await listener.run()
            run.end()
        }
        for _ in 0..<500 where !run.isOver { try await Task.sleep(for: .milliseconds(10)) }
        #expect(run.isOver)
    }

    private final class Run: Sendable {
        private let hasEnded = Atomic(false)
        var isOver: Bool { hasEnded.load(ordering: .relaxed) }
        func end() { hasEnded.store(true, ordering: .relaxed) }
    }
}
