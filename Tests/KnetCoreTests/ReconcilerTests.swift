import HashTreeCollections
import Logging
import Synchronization
import Testing

@testable import KnetCore

/// A plugin over a kernel in memory that can be told to fail.
private final class FakePlugin: Plugin {
    struct Kernel {
        var entries: [Int: TestEntry] = [:]
        var reads = 0
        var batches: [KernelChanges<TestEntry>] = []
        var refused: Set<Int> = []
        var isUnreadable = false
    }
    struct Unreadable: Error {}

    let name = "fake"
    let needs = ClusterNeeds([.node])
    let kernel = Mutex(Kernel())

    /// A node `n7` wants the entry 7, whose value is the number of its ranges; `bad` is an error.
    func entries(for key: ObjectKey, in state: ClusterState) throws -> [TestEntry] {
        guard let node = state.nodes[key] else { return [] }
        guard let id = Int(node.metadata.name.dropFirst()) else { throw Unreadable() }
        return [TestEntry(id: id, value: node.podCIDRs.count)]
    }

    func read() throws -> [TestEntry] {
        try kernel.withLock {
            $0.reads += 1
            if $0.isUnreadable { throw Unreadable() }
            return Array($0.entries.values)
        }
    }

    func apply(_ changes: KernelChanges<TestEntry>) -> KernelOutcome<TestEntry> {
        kernel.withLock { kernel in
            kernel.batches.append(changes)
            var outcome = KernelOutcome<TestEntry>()
            for entry in changes.add {
                if kernel.refused.contains(entry.id) {
                    outcome.failures.append(KernelFailure(entry: entry, reason: "refused"))
                } else {
                    kernel.entries[entry.id] = entry
                }
            }
            for entry in changes.remove { kernel.entries[entry.id] = nil }
            return outcome
        }
    }
}

@Suite struct ReconcilerTests {
    private let plugin = FakePlugin()
    private let store = StateStore()

    private func node(_ name: String, ranges: Int = 1) -> Node {
        Node(name: name, podCIDRs: (0..<ranges).compactMap { CIDR("10.42.\($0).0/24") }, addresses: [])
    }

    @discardableResult
    private func set(_ nodes: Node..., complete: Bool = true) -> UInt64 {
        store.update(Set(nodes.map(\.key)), told: complete ? [.node] : []) { state in
            for node in nodes { state.set(.node(node)) }
            state.set(local: LocalNode(name: "self", podCIDRs: [], uplinks: [:]))
        }
    }

    private func with<Result>(_ body: (Reconciler<FakePlugin>) async throws -> Result) async throws -> Result {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let reconciler = Reconciler(
            plugin: plugin, store: store, executor: TestExecutor(), resyncInterval: .seconds(3600), logger: logger)
        let task = Task { await reconciler.run() }
        defer { task.cancel() }
        return try await body(reconciler)
    }

    @Test func oneChangedObjectCostsOneEntry() async throws {
        for index in 0..<100 { set(node("n\(index)")) }
        try await with { reconciler in
            try await reconciler.inForce(.node("n0"), version: store.current.version)
            plugin.kernel.withLock { $0.batches = [] }
            let version = set(node("n5", ranges: 2))
            try await reconciler.inForce(.node("n5"), version: version)
            let (batches, reads) = plugin.kernel.withLock { ($0.batches, $0.reads) }
            #expect(batches.map(\.add) == [[TestEntry(id: 5, value: 2)]])
            #expect(batches.flatMap(\.remove).isEmpty)
            #expect(reads == 1)
        }
    }

    @Test func whatTheKernelHoldsAlreadyIsNotWritten() async throws {
        plugin.kernel.withLock { $0.entries = [1: TestEntry(id: 1, value: 1)] }
        let version = set(node("n1"))
        try await with { reconciler in
            try await reconciler.inForce(.node("n1"), version: version)
            #expect(plugin.kernel.withLock { $0.batches.isEmpty })
        }
    }

    @Test func nothingIsRemovedUntilTheSourceHasToldEverything() async throws {
        plugin.kernel.withLock { $0.entries = [9: TestEntry(id: 9, value: 1)] }
        let version = set(node("n1"), complete: false)
        try await with { reconciler in
            try await reconciler.inForce(.node("n1"), version: version)
            #expect(plugin.kernel.withLock { $0.entries.keys.sorted() } == [1, 9])
            #expect(!reconciler.report.isInForce)
            try await reconciler.inForce(.node("n2"), version: set(node("n2")))
            #expect(plugin.kernel.withLock { $0.entries.keys.sorted() } == [1, 2])
            #expect(reconciler.report.isInForce)
        }
    }

    @Test func aBadObjectIsReportedByNameAndAllOthersWork() async throws {
        let version = set(node("nx"), node("n1"))
        try await with { reconciler in
            try await reconciler.inForce(.node("n1"), version: version)
            await #expect(throws: NotInForce.self) { try await reconciler.inForce(.node("nx"), version: version) }
            #expect(reconciler.report.faults.keys.sorted() == [.node("nx")])
        }
    }

    @Test func aRefusedEntryIsTriedAgainUntilItWorks() async throws {
        plugin.kernel.withLock { $0.refused = [1] }
        let version = set(node("n1"), node("n2"))
        try await with { reconciler in
            try await reconciler.inForce(.node("n2"), version: version)
            await #expect(throws: NotInForce.self) { try await reconciler.inForce(.node("n1"), version: version) }
            plugin.kernel.withLock { $0.refused = [] }
            try await eventually {
                plugin.kernel.withLock { $0.entries.count } == 2 && reconciler.report.faults.isEmpty
            }
        }
    }

    @Test func aChangeUnderUsIsRepaired() async throws {
        let version = set(node("n1"))
        try await with { reconciler in
            try await reconciler.inForce(.node("n1"), version: version)
            plugin.kernel.withLock { $0.entries = [7: TestEntry(id: 7, value: 7)] }
            reconciler.kernelChanged()
            try await eventually { plugin.kernel.withLock { $0.entries } == [1: TestEntry(id: 1, value: 1)] }
        }
    }

    @Test func aKernelThatCannotBeReadIsTriedAgain() async throws {
        plugin.kernel.withLock { $0.isUnreadable = true }
        set(node("n1"))
        try await with { reconciler in
            try await eventually { !reconciler.report.otherFaults.isEmpty }
            #expect(plugin.kernel.withLock { $0.batches.isEmpty })
            plugin.kernel.withLock { $0.isUnreadable = false }
            try await eventually { plugin.kernel.withLock { $0.entries.count } == 1 }
            #expect(reconciler.report.otherFaults.isEmpty)
        }
    }

    @Test func whoWaitsForAReconcilerThatEndsIsTold() async throws {
        let version = set(node("n1"))
        let waiting = try await with { reconciler in
            try await reconciler.inForce(.node("n1"), version: version)
            return Task { try await reconciler.inForce(.node("n1"), version: version + 100) }
        }
        await #expect(throws: (any Error).self) { try await waiting.value }
    }
}

/// Waits until `condition` holds, two seconds at most.
func eventually(_ condition: () -> Bool, sourceLocation: SourceLocation = #_sourceLocation) async throws {
    let deadline = ContinuousClock.now + .seconds(2)
    while !condition() {
        guard ContinuousClock.now < deadline else {
            Issue.record("did not come true within two seconds", sourceLocation: sourceLocation)
            return
        }
        try await Task.sleep(for: .milliseconds(5))
    }
}

/// The cooperative pool will do where nothing blocks.
private final class TestExecutor: SerialExecutor {
    private let queue = Mutex<Int>(0)

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        Task.detached { self.queue.withLock { _ in job.runSynchronously(on: self.asUnownedSerialExecutor()) } }
    }
}
