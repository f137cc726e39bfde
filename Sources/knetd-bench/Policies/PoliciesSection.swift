import Glibc
import KnetCore
import KnetLinux

/// Measures the plugin networkPolicy: all policies from nothing, a changed label, and what they cost between two pods of a node.
struct PoliciesSection {
    static let all = "all policies and pods"
    static let remote = "a pod of another node"
    static let local = "a pod of this node"

    private static let starts = 3

    private let contents: PolicyContents
    private let remoteChanges: Int
    private let localChanges: Int
    /// Each path's turns in each kind of traffic.
    private let rounds: Int
    /// Of one turn.
    private let seconds: Double

    init(_ stage: Stage) {
        let quick = stage.options.isQuick
        contents = quick ? .few : .full
        remoteChanges = quick ? 20 : 1000
        localChanges = quick ? 20 : 200
        rounds = quick ? 1 : 10
        seconds = stage.options.seconds / Double(rounds)
    }

    private struct Collectors {
        var cold = Collector()
        var change = Collector()
        var work = Collector()
        var elements = Collector()
        var memory = Collector()
    }

    func measure() throws -> [Table] {
        var figures = Collectors()
        let empty = try Self.resident()
        for start in 0..<Self.starts {
            try Progress.step("policies: \(contents.title), start \(start + 1) of \(Self.starts)")
            let namespace = try NetworkNamespace.anonymous()
            let running = try namespace.run { try RunningPolicies(contents) }
            defer { running.stop() }
            figures.cold.add(Self.all, [try running.waitUntilInForce()])
            // Memory that an earlier start left would be taken for memory that costs nothing.
            if start == 0 { try measure(running, empty: empty, &figures) }
        }
        return tables(figures) + (try path())
    }

    private func measure(_ running: RunningPolicies, empty: Double, _ figures: inout Collectors) throws {
        let loaded = try Self.resident()
        figures.memory.add("before anything is loaded", [empty])
        figures.memory.add(Self.all, [loaded])
        figures.memory.add("\(Self.all), less what was before", [loaded - empty])
        // Each pod in turn, and once more when all had theirs.
        try change(Self.remote, remoteChanges, running, &figures) { number in
            contents.remotePod(number % contents.remotePods, version: number / contents.remotePods + 1)
        }
        try change(Self.local, localChanges, running, &figures) { number in
            contents.localPod(number % contents.localPods, isChanged: number / contents.localPods % 2 == 0)
        }
    }

    /// - Parameter pod: how it is after the change of that number.
    private func change(
        _ name: String, _ count: Int, _ running: RunningPolicies, _ figures: inout Collectors, _ pod: (Int) -> Pod
    ) throws {
        try Progress.step("policies: \(count) changed labels, \(name)")
        let pods = (0..<count).map { pod($0) }
        var (times, elements): ([Double], [Double]) = ([], [])
        let before = ProcessUsage.milliseconds
        for pod in pods {
            try Progress.check()
            let written = KernelWrites.total
            times.append(try running.change(pod))
            elements.append(Double(KernelWrites.total - written))
        }
        figures.work.add(name, [(ProcessUsage.milliseconds - before) / Double(count)])
        figures.change.add(name, times)
        figures.elements.add(name, elements)
    }

    /// - Returns: MiB that this program holds.
    private static func resident() throws -> Double {
        try Memory.held(by: getpid()).first { $0.0 == .resident }?.1 ?? 0
    }

    /// The same two pods under each table in turn.
    private func path() throws -> [Table] {
        var turns = PathTurns(
            id: "policies.path", place: "one node, \(contents.policies) policies",
            base: Table.Base(row: PolicyPath.tracked, label: "tracked"), yardstick: try Yardstick())
        for name in [PolicyPath.bare, PolicyPath.tracked, PolicyPath.policies] {
            try turns.enter(name) { try PolicyPath.build(name, contents) }
        }
        try turns.run(rounds: rounds, seconds: seconds)
        return turns.tables
    }

    private func tables(_ figures: Collectors) -> [Table] {
        [
            Table(
                id: "policies.cold", title: "From nothing to all in force: \(contents.title)", unit: "ms",
                rows: figures.cold.rows),
            Table(
                id: "policies.change", title: "From a changed label in the cluster's state to the kernel", unit: "ms",
                rows: figures.change.rows,
                remark: "Elsewhere the pod leaves one set and enters another; here, other policies hold for it."),
            Table(
                id: "policies.work", title: "Processor time of such a change, state and kernel", unit: "ms",
                rows: figures.work.rows),
            Table(
                id: "policies.elements", title: "Elements, chains and counters that were sent for it", unit: "things",
                rows: figures.elements.rows),
            Table(
                id: "policies.memory", title: "Resident memory of this program, state included", unit: "MiB",
                rows: figures.memory.rows, remark: "After other sections of one run, some of theirs is used again."),
        ]
    }
}
