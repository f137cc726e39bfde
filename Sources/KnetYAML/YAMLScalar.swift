import KnetCore

/// What a bare word stands for: YAML 1.1 as Kubernetes reads it (go-yaml under sigs.k8s.io/yaml), where `on` is true and `010` is
/// eight, but where `12:30` is no number.
enum YAMLScalar {
    static func value(of text: String) -> JSONValue {
        switch text {
        case "", "~", "null", "Null", "NULL": return .null
        case "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON": return .boolean(true)
        case "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF": return .boolean(false)
        case ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF": return .number(.infinity)
        case "-.inf", "-.Inf", "-.INF": return .number(-.infinity)
        case ".nan", ".NaN", ".NAN": return .number(.nan)
        default: break
        }
        guard let first = text.utf8.first, "+-.0123456789".utf8.contains(first) else { return .string(text) }
        // Underscores are there for the eye.
        let digits = text.contains("_") ? text.filter { $0 != "_" } : text
        if let number = integer(digits) { return .integer(number) }
        if isDecimal(digits), let number = Double(digits) { return .number(number) }
        return .string(text)
    }

    private static func integer(_ text: String) -> Int? {
        let isSigned = text.hasPrefix("-") || text.hasPrefix("+")
        let digits = text.dropFirst(isSigned ? 1 : 0)
        // Swift would take a second sign, after the prefix.
        guard let first = digits.utf8.first, 0x30...0x39 ~= first else { return nil }
        for (prefix, radix) in [("0x", 16), ("0b", 2), ("0o", 8), ("0", 8)]
        where digits.hasPrefix(prefix) && digits.utf8.count > prefix.utf8.count {
            let rest = digits.dropFirst(prefix.count)
            guard !rest.hasPrefix("-"), !rest.hasPrefix("+") else { return nil }
            return Int((text.hasPrefix("-") ? "-" : "") + rest, radix: radix)
        }
        return Int(text)
    }

    /// Whether it is digits with at most one point and an exponent: Swift takes words like `+infinity` too.
    private static func isDecimal(_ text: String) -> Bool {
        var rest = text.utf8[...]
        func digits() -> Int {
            let count = rest.prefix { 0x30...0x39 ~= $0 }.count
            rest = rest.dropFirst(count)
            return count
        }
        func take(_ characters: String) -> Bool {
            guard let first = rest.first, characters.utf8.contains(first) else { return false }
            rest = rest.dropFirst()
            return true
        }
        _ = take("+-")
        let whole = digits()
        let fraction = take(".") ? digits() : 0
        guard whole + fraction > 0 else { return false }
        if take("eE") {
            _ = take("+-")
            guard digits() > 0 else { return false }
        }
        return rest.isEmpty
    }
}
