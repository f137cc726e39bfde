/// A text that is not YAML, or that no JSON value can stand for.
public struct YAMLError: Error, Hashable, CustomStringConvertible {
    public let reason: String
    /// Both count from 1.
    public let line: Int
    public let column: Int

    public var description: String { "not valid YAML: \(reason), line \(line), column \(column)" }
}

/// Where in the text an event begins, from 0 as libyaml counts.
struct YAMLPlace {
    let line: Int
    let column: Int

    func error(_ reason: String) -> YAMLError { YAMLError(reason: reason, line: line + 1, column: column + 1) }
}
