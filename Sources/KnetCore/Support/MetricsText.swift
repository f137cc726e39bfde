/// Measurements in Prometheus' text format
/// (https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format).
public struct MetricsText: Sendable {
    public private(set) var text = ""

    public init() {}

    /// Begins a family; its samples follow.
    public mutating func family(_ name: String, _ type: String, _ help: String) {
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
    }

    public mutating func sample(_ name: String, _ labels: [String: String], _ value: Double) {
        let pairs = labels.sorted { $0.key < $1.key }.map { "\($0.key)=\"\($0.value)\"" }.joined(separator: ",")
        text += name + (pairs.isEmpty ? "" : "{\(pairs)}") + " \(Self.number(value))\n"
    }

    /// A family of its own, of one histogram.
    public mutating func histogram(_ name: String, _ help: String, _ histogram: Histogram) {
        family(name, "histogram", help)
        var count = 0
        for (bound, more) in zip(histogram.bounds, histogram.counts) {
            count += more
            sample("\(name)_bucket", ["le": Self.number(bound)], Double(count))
        }
        sample("\(name)_bucket", ["le": "+Inf"], Double(histogram.count))
        sample("\(name)_sum", [:], histogram.sum)
        sample("\(name)_count", [:], Double(histogram.count))
    }

    private static func number(_ value: Double) -> String {
        value == value.rounded() && abs(value) < 1e15 ? "\(Int(value))" : "\(value)"
    }
}

/// How often a measurement fell below each of some bounds.
public struct Histogram: Sendable {
    /// Ascending, inclusive.
    public let bounds: [Double]
    /// Measurements between each bound and the one before.
    public private(set) var counts: [Int]
    /// All of them, those above the last bound too.
    public private(set) var count = 0
    public private(set) var sum = 0.0

    public init(bounds: [Double]) {
        self.bounds = bounds
        counts = Array(repeating: 0, count: bounds.count)
    }

    public mutating func observe(_ value: Double) { observe(value, count: 1) }

    /// Several measurements of one value.
    public mutating func observe(_ value: Double, count: Int) {
        self.count += count
        sum += value * Double(count)
        if let index = bounds.firstIndex(where: { value <= $0 }) { counts[index] += count }
    }

    /// Takes in measurements against the same bounds.
    public mutating func add(_ other: Histogram) {
        precondition(other.bounds == bounds, "histograms with other bounds cannot be added")
        count += other.count
        sum += other.sum
        for index in counts.indices { counts[index] += other.counts[index] }
    }

    /// Forgets all measurements.
    public mutating func reset() {
        (count, sum) = (0, 0)
        for index in counts.indices { counts[index] = 0 }
    }
}
