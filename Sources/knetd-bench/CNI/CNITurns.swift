import KnetCore
import KnetLinux

/// Contenders that attach and detach pods in turn.
struct CNITurns {
    /// What is timed; each is a table.
    private enum Figure: String, CaseIterable {
        case add, del
        case gone = "del.gone"
        case addAtOnce = "add.at-once"
        case delAtOnce = "del.at-once"
        case addAll = "add.all"
        case delAll = "del.all"
        case goneAll = "del.gone.all"

        /// Whether pods that come one by one give it.
        var isSingle: Bool { [.add, .del, .gone].contains(self) }

        func title(_ what: String, crowd: Int) -> String {
            switch self {
            case .add: "CNI ADD \(what), one by one"
            case .del: "CNI DEL \(what), one by one"
            case .gone: "CNI DEL \(what), one by one, until the pod's link is gone"
            case .addAtOnce: "CNI ADD \(what), \(crowd) at once, each request"
            case .delAtOnce: "CNI DEL \(what), \(crowd) at once, each request"
            case .addAll: "CNI ADD \(what), \(crowd) at once, until the last is done"
            case .delAll: "CNI DEL \(what), \(crowd) at once, until the last is done"
            case .goneAll: "CNI DEL \(what), \(crowd) at once, until the last pod's link is gone"
            }
        }
    }

    private let stage: Stage
    private var contenders: [any CNIContender] = []
    private var collectors: [Figure: Collector] = [:]
    private var failed: Set<String> = []
    private var crowd = 0

    init(_ stage: Stage) { self.stage = stage }

    mutating func enter(_ contender: any CNIContender) {
        contenders.append(contender)
        for figure in Figure.allCases { collectors[figure, default: Collector()].add(contender.name) }
    }

    mutating func skip(_ name: String, _ reason: String) {
        for figure in Figure.allCases { collectors[figure, default: Collector()].end(name, .skipped(reason)) }
    }

    // MARK: Turns

    mutating func oneByOne(rounds: Int) throws {
        for round in 0..<rounds {
            if round % 10 == 0 { try Progress.step("CNI, one by one: round \(round + 1) of \(rounds)") }
            try turn { contender, turns in
                try turns.stage.withPods(1) { pods in
                    let attached = try contender.add(pods[0])
                    turns.collectors[.add]?.add(contender.name, [attached.milliseconds])
                    let start = ContinuousClock.now
                    let deleted = try contender.delete(pods[0], after: attached.result)
                    turns.collectors[.del]?.add(contender.name, [deleted])
                    try pods[0].waitUntilLinkIsGone()
                    turns.collectors[.gone]?.add(contender.name, [(ContinuousClock.now - start) / .milliseconds(1)])
                }
            }
        }
    }

    /// - Parameter count: of pods that are attached at the same time, and then detached at the same time.
    mutating func atOnce(_ count: Int, rounds: Int) throws {
        crowd = count
        for round in 0..<rounds {
            try Progress.step("CNI, \(count) at once: round \(round + 1) of \(rounds)")
            try turn { contender, turns in
                try turns.stage.withPods(count) { pods in
                    var start = ContinuousClock.now
                    let attached = try Parallel.run(count) { try contender.add(pods[$0]) }
                    turns.collectors[.addAll]?.add(contender.name, [(ContinuousClock.now - start) / .milliseconds(1)])
                    turns.collectors[.addAtOnce]?.add(contender.name, attached.map(\.milliseconds))
                    start = ContinuousClock.now
                    let deleted = try Parallel.run(count) {
                        try contender.delete(pods[$0], after: attached[$0].result)
                    }
                    turns.collectors[.delAll]?.add(contender.name, [(ContinuousClock.now - start) / .milliseconds(1)])
                    turns.collectors[.delAtOnce]?.add(contender.name, deleted)
                    for pod in pods { try pod.waitUntilLinkIsGone() }
                    turns.collectors[.goneAll]?.add(contender.name, [(ContinuousClock.now - start) / .milliseconds(1)])
                }
            }
        }
    }

    /// Gives each contender its turn. One that fails is out; the others go on.
    private mutating func turn(_ body: (any CNIContender, inout CNITurns) throws -> Void) throws {
        for contender in contenders where !failed.contains(contender.name) {
            try Progress.check()
            do {
                try body(contender, &self)
            } catch {
                failed.insert(contender.name)
                for figure in Figure.allCases { collectors[figure]?.end(contender.name, .failed("\(error)")) }
                Progress.say("\(contender.name): \(error)")
            }
        }
    }

    // MARK: Tables

    /// - Parameter bases: the contenders that the others are compared with.
    func tables(id: String, _ what: String, bases: [Table.Base], remark: String? = nil) -> [Table] {
        Figure.allCases.filter { crowd > 0 || $0.isSingle }.map { figure in
            Table(
                id: "\(id).\(figure.rawValue)", title: figure.title(what, crowd: crowd), unit: "ms", bases: bases,
                rows: collectors[figure]?.rows ?? [], remark: remark)
        }
    }
}
