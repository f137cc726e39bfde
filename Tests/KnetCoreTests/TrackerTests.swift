import TestSupport
import Testing

@testable import KnetCore

/// An entry with an identity and a value.
struct TestEntry: KernelEntry {
    let id: Int
    let value: Int
    var description: String { "\(id)=\(value)" }
}

@Suite struct TrackerTests {
    private let a = ObjectKey.node("a")
    private let b = ObjectKey.node("b")

    @Test func onlyWhatDiffersIsSent() {
        var tracker = Tracker<TestEntry>()
        tracker.want([TestEntry(id: 1, value: 1), TestEntry(id: 2, value: 2)], for: a)
        tracker.adopt([TestEntry(id: 1, value: 1), TestEntry(id: 3, value: 3)])
        let changes = tracker.changes(mayRemove: true)
        #expect(changes.add == [TestEntry(id: 2, value: 2)])
        #expect(changes.remove == [TestEntry(id: 3, value: 3)])
        tracker.record(changes, failures: [])
        #expect(tracker.changes(mayRemove: true).isEmpty)
    }

    @Test func nothingIsRemovedBeforeTheStateIsComplete() {
        var tracker = Tracker<TestEntry>()
        tracker.adopt([TestEntry(id: 3, value: 3)])
        #expect(tracker.changes(mayRemove: false).isEmpty)
        #expect(tracker.changes(mayRemove: true).remove == [TestEntry(id: 3, value: 3)])
    }

    @Test func aChangedValueNamesWhatItReplaces() {
        var tracker = Tracker<TestEntry>()
        tracker.adopt([TestEntry(id: 1, value: 1)])
        tracker.want([TestEntry(id: 1, value: 2)], for: a)
        let changes = tracker.changes(mayRemove: true)
        #expect(changes.add == [TestEntry(id: 1, value: 2)])
        #expect(changes.replaced == [1: TestEntry(id: 1, value: 1)])
        #expect(changes.remove.isEmpty)
    }

    @Test func whatFailedIsTriedAgain() {
        var tracker = Tracker<TestEntry>()
        tracker.want([TestEntry(id: 1, value: 1), TestEntry(id: 2, value: 2)], for: a)
        let changes = tracker.changes(mayRemove: true)
        tracker.record(changes, failures: [KernelFailure(entry: TestEntry(id: 1, value: 1), reason: "no")])
        #expect(tracker.changes(mayRemove: true).add == [TestEntry(id: 1, value: 1)])
    }

    @Test(arguments: [true, false])
    func ofTwoClaimsTheLesserKeyWinsInWhateverOrder(aFirst: Bool) {
        var tracker = Tracker<TestEntry>()
        let claims = [(a, TestEntry(id: 1, value: 10)), (b, TestEntry(id: 1, value: 20))]
        for (key, entry) in aFirst ? claims : claims.reversed() { tracker.want([entry], for: key) }
        #expect(tracker.changes(mayRemove: true).add == [TestEntry(id: 1, value: 10)])
        #expect(tracker.disputes == [b: a])
        tracker.want([], for: a)
        #expect(tracker.changes(mayRemove: true).add == [TestEntry(id: 1, value: 20)])
        #expect(tracker.disputes.isEmpty)
    }

    /// Random wishes, failures and foreign interference, then quiet: the kernel is what the last wishes say.
    @Test(arguments: 0..<200 as Range<UInt64>)
    func whateverHappenedTheKernelEndsAsDesired(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var tracker = Tracker<TestEntry>()
        var kernel: [Int: TestEntry] = [:]
        var wishes: [ObjectKey: [TestEntry]] = [:]
        func turn(failing: Bool) {
            let changes = tracker.changes(mayRemove: true)
            var failures: [KernelFailure<TestEntry>] = []
            for entry in changes.add + changes.remove where failing && Bool.random(using: &random) {
                failures.append(KernelFailure(entry: entry, reason: "by chance"))
            }
            let failed = Set(failures.map(\.entry.id))
            for entry in changes.add where !failed.contains(entry.id) { kernel[entry.id] = entry }
            for entry in changes.remove where !failed.contains(entry.id) { kernel[entry.id] = nil }
            tracker.record(changes, failures: failures)
        }
        for _ in 0..<60 {
            switch Int.random(in: 0..<4, using: &random) {
            case 0, 1:
                let key = ObjectKey.node("n\(Int.random(in: 0..<5, using: &random))")
                let ids = Set((0..<3).map { _ in Int.random(in: 0..<8, using: &random) })
                let entries = ids.map { TestEntry(id: $0, value: Int.random(in: 0..<3, using: &random)) }
                wishes[key] = entries
                tracker.want(entries, for: key)
            case 2:
                let id = Int.random(in: 0..<8, using: &random)
                kernel[id] = Bool.random(using: &random) ? nil : TestEntry(id: id, value: 99)
                tracker.adopt(Array(kernel.values))
            default: turn(failing: true)
            }
        }
        turn(failing: false)
        var expected: [Int: TestEntry] = [:]
        for (_, entries) in wishes.sorted(by: { $1.key < $0.key }) {
            for entry in entries { expected[entry.id] = entry }
        }
        #expect(kernel == expected, "seed \(seed)")
        turn(failing: false)
        #expect(tracker.changes(mayRemove: true).isEmpty)
    }
}
