import KnetCore

/// Values of one contender in one table, or why there are none.
struct Row {
    enum Outcome {
        case measured([Double])
        /// What is missing on this machine; no fault.
        case skipped(String)
        case failed(String)
    }

    let name: String
    let outcome: Outcome
    /// The median of each turn, where contenders took turns; `nil` for one that gave no value.
    let turns: [Double?]

    init(_ name: String, _ outcome: Outcome, turns: [Double?] = []) {
        self.name = name
        self.turns = turns
        // Sorted once: quantiles are asked for several times of hundreds of thousands of values.
        if case .measured(let values) = outcome {
            self.outcome = values.isEmpty ? .failed("nothing was measured") : .measured(values.sorted())
        } else {
            self.outcome = outcome
        }
    }

    var count: Int {
        if case .measured(let sorted) = outcome { sorted.count } else { 0 }
    }

    var median: Double? { quantile(0.5) }

    /// The smallest value that at least `part` (0…1) of all values do not exceed; `nil` where nothing was measured.
    func quantile(_ part: Double) -> Double? {
        guard case .measured(let sorted) = outcome, !sorted.isEmpty else { return nil }
        return sorted[min(max(Int((Double(sorted.count) * part).rounded(.up)) - 1, 0), sorted.count - 1)]
    }

    /// This row's values divided by the base's. Where both took turns, the median of what each round of turns says: what
    /// disturbs the machine for a while disturbs a few rounds, and those do not decide. Else the medians' relation.
    func ratio(to base: Row) -> Double? {
        guard let value = median, let other = base.median, other != 0 else { return nil }
        guard turns.count == base.turns.count, base.turns.allSatisfy({ $0 != 0 }) else { return value / other }
        let ratios = zip(turns, base.turns).compactMap { own, other in own.flatMap { own in other.map { own / $0 } } }
            .sorted()
        guard ratios.count > 2 else { return value / other }
        return (ratios[(ratios.count - 1) / 2] + ratios[ratios.count / 2]) / 2
    }

    /// Why there are no values, as the tables show it.
    var reason: String? {
        switch outcome {
        case .measured: nil
        case .skipped(let reason): "skipped: \(reason)"
        case .failed(let reason): "failed: \(reason)"
        }
    }
}

/// One figure of several contenders, measured in turn in the same run.
struct Table {
    /// Stands for the table in JSON and in the targets; never changes its meaning.
    let id: String
    let title: String
    /// Of every value: `ms`, `µs`, `Gbit/s`.
    let unit: String
    var bases: [Base] = []
    let rows: [Row]
    /// What one must know to read the figures rightly.
    var remark: String?

    /// A row to which the others are put in relation.
    struct Base {
        let row: String
        /// What a narrow column calls it.
        let label: String
    }

    func row(_ name: String) -> Row? { rows.first { $0.name == name } }

    func ratio(_ row: Row, to base: Base) -> Double? { self.row(base.row).flatMap { row.ratio(to: $0) } }
}

/// Collects values of contenders whose turns come round and round.
struct Collector {
    private var names: [String] = []
    /// By turn.
    private var values: [String: [[Double]]] = [:]
    private var reasons: [String: Row.Outcome] = [:]

    mutating func add(_ name: String, _ new: [Double] = []) {
        if !names.contains(name) { names.append(name) }
        if !new.isEmpty { values[name, default: []].append(new) }
    }

    /// A turn keeps its place among the others' where it has no values.
    mutating func addTurn(_ name: String, _ new: [Double]) {
        add(name)
        values[name, default: []].append(new)
    }

    mutating func end(_ name: String, _ outcome: Row.Outcome) {
        add(name)
        if reasons[name] == nil { reasons[name] = outcome }
    }

    /// In the order in which the contenders came first.
    var rows: [Row] {
        names.map { name in
            let turns = values[name] ?? []
            return Row(
                name, reasons[name] ?? .measured(turns.flatMap(\.self)),
                turns: turns.map { Row(name, .measured($0)).median })
        }
    }
}
