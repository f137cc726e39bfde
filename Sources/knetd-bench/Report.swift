import KnetCore

/// All that one run found.
struct Report {
    let host: HostFacts
    var tables: [Table] = []
    var targets: [Target] = []
    /// Why whole sections are missing.
    var faults: [String] = []

    /// Whether something went wrong that was to be measured.
    var hasFailures: Bool {
        !faults.isEmpty
            || tables.contains { table in
                table.rows.contains {
                    if case .failed = $0.outcome { true } else { false }
                }
            }
    }

    /// The median of a row; `nil` where it was not measured.
    func median(_ table: String, _ row: String) -> Double? { tables.first { $0.id == table }?.row(row)?.median }

    /// `row` in relation to `base`, of the same table; `nil` where one of them was not measured.
    func ratio(_ table: String, _ row: String, of base: String) -> Double? {
        guard let table = tables.first(where: { $0.id == table }), let base = table.row(base) else { return nil }
        return table.row(row)?.ratio(to: base)
    }

    // MARK: For people

    var text: String {
        let parts = [host.text] + tables.map(Self.text) + (targets.isEmpty ? [] : [Target.text(targets)])
        return parts.joined(separator: "\n\n")
    }

    private static func text(_ table: Table) -> String {
        let head = ["", "n", "p50", "p95", "p99"] + table.bases.map { "× \($0.label)" }
        let rows = table.rows.map { row -> [String] in
            if let reason = row.reason { return [row.name, reason] }
            let figures = [0.5, 0.95, 0.99].map { Figure.text(row.quantile($0)) }
            let ratios = table.bases.map { base in Figure.text(table.ratio(row, to: base)) }
            return [row.name, "\(row.count)"] + figures + ratios
        }
        let remark = table.remark.map { "\n\($0)" } ?? ""
        return "\(table.title) [\(table.unit)]\n" + Columns.text([head] + rows) + remark
    }

    // MARK: For programs

    var json: JSONValue {
        [
            "host": host.json, "tables": .array(tables.map(Self.json)),
            "targets": .array(targets.map(\.json)), "faults": .array(faults.map(JSONValue.string)),
        ]
    }

    private static func json(_ table: Table) -> JSONValue {
        var members: [String: JSONValue] = [
            "id": .string(table.id), "title": .string(table.title), "unit": .string(table.unit),
            "bases": .array(table.bases.map { .string($0.row) }),
            "rows": .array(table.rows.map { json($0, in: table) }),
        ]
        members["remark"] = table.remark.map(JSONValue.string)
        return .object(members)
    }

    /// `ratio` is that to the first base that was measured; `ratios` has them all.
    private static func json(_ row: Row, in table: Table) -> JSONValue {
        var members: [String: JSONValue] = [
            "name": .string(row.name), "unit": .string(table.unit), "n": .integer(row.count),
        ]
        for (name, part) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
            members[name] = Figure.json(row.quantile(part))
        }
        let ratios = table.bases.map { ($0.row, table.ratio(row, to: $0)) }
        members["ratio"] = Figure.json(ratios.compactMap(\.1).first)
        members["ratios"] = .object(Dictionary(ratios.map { ($0, Figure.json($1)) }) { $1 })
        members["reason"] = row.reason.map(JSONValue.string)
        return .object(members)
    }
}

/// Numbers as this program shows them.
enum Figure {
    /// Three significant digits, fewer decimals the larger the number; a dash for `nil`.
    static func text(_ value: Double?) -> String {
        guard let value, value.isFinite else { return "–" }
        let decimals = abs(value) >= 100 ? 0 : abs(value) >= 10 ? 1 : abs(value) >= 1 ? 2 : 3
        let scale = [1.0, 10, 100, 1000][decimals]
        let scaled = Int((abs(value) * scale).rounded())
        let sign = value < 0 && scaled != 0 ? "-" : ""
        guard decimals > 0 else { return sign + "\(scaled)" }
        let fraction = String(scaled % Int(scale))
        return sign + "\(scaled / Int(scale))." + String(repeating: "0", count: decimals - fraction.count) + fraction
    }

    /// With six decimals at most; JSON has no infinity.
    static func json(_ value: Double?) -> JSONValue {
        guard let value, value.isFinite else { return .null }
        return .number((value * 1_000_000).rounded() / 1_000_000)
    }
}

/// Rows of text in columns: the first to the left, figures to the right. A row of two fields where the head has more is a
/// name and a remark as long as it likes.
enum Columns {
    static func text(_ rows: [[String]]) -> String {
        let count = rows.first?.count ?? 0
        let whole = rows.filter { $0.count == count }
        let names = rows.compactMap { $0.first?.count }.max() ?? 0
        let widths = (0..<count).map { column in
            column == 0 ? names : whole.map { $0[column].count }.max() ?? 0
        }
        return rows.map { row in
            row.enumerated().map { column, text in
                let space = String(repeating: " ", count: max(widths[column] - text.count, 0))
                return column == 0 ? text + space : row.count == count ? space + text : text
            }.joined(separator: "  ")
        }.joined(separator: "\n")
    }
}
