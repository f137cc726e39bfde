/// What a part of the configuration may look like. One declaration gives the check, the defaults that `config show`
/// prints, and the JSON Schema that `config schema` prints.
public indirect enum Shape: Sendable {
    case boolean
    case integer(ClosedRange<Int>)
    case text(TextFormat)
    case list(of: Shape, atLeast: Int = 0)
    case object([Field])
    /// An object whose names are free.
    case map(of: Shape)
    /// The first shape that fits is taken.
    case either([Shape])
}

/// What a string in the configuration must be.
public enum TextFormat: Sendable {
    /// Any text that is not empty; `what` names it in messages.
    case any(what: String)
    case oneOf([String])
    case cidr
    case ipAddress
    /// `address:port`, the address of IPv6 in brackets.
    case endpoint
    case absolutePath
    /// `https://host:port`.
    case serverURL
    /// A network interface's name: 1 to 15 bytes without `/` or white space.
    case interfaceName
    /// What a plugin can read; `what` names it in messages.
    case readable(what: String, _ isReadable: @Sendable (String) -> Bool)
}

/// A member of an object.
public struct Field: Sendable {
    public let name: String
    public let shape: Shape
    /// Taken where the file is silent; `nil` where silence has a meaning of its own.
    public let fallback: JSONValue?
    /// Whether it must be there.
    public let isRequired: Bool
    /// One sentence for the schema.
    public let summary: String

    public init(
        _ name: String, _ shape: Shape, default fallback: JSONValue? = nil, isRequired: Bool = false, _ summary: String
    ) {
        self.name = name
        self.shape = shape
        self.fallback = fallback
        self.isRequired = isRequired
        self.summary = summary
    }
}

/// One thing that is wrong with a configuration file.
public struct ConfigurationProblem: Error, Hashable, Sendable, CustomStringConvertible {
    /// Where: `$.network.podCIDRs[1]`.
    public let path: String
    /// What stands there.
    public let found: String
    /// What may stand there.
    public let allowed: String
    /// What to write instead, where that can be guessed.
    public let suggestion: String?

    public init(path: String, found: String, allowed: String, suggestion: String? = nil) {
        self.path = path
        self.found = found
        self.allowed = allowed
        self.suggestion = suggestion
    }

    public var description: String {
        let hint = suggestion.map { "; did you mean \($0)?" } ?? ""
        return "\(path): found \(found), allowed is \(allowed)\(hint)"
    }
}

/// All that is wrong with a configuration file, in the order of its paths.
public struct ConfigurationError: Error, Sendable, CustomStringConvertible {
    public let problems: [ConfigurationProblem]

    public init(_ problems: [ConfigurationProblem]) { self.problems = problems.sorted { $0.path < $1.path } }

    public var description: String { problems.map(\.description).joined(separator: "\n") }
}

extension Shape {
    /// Checks `value` and returns it with every default filled in. Problems are added to `problems`; where there is
    /// one, what is returned is not to be used.
    public func normalise(_ value: JSONValue, path: String, problems: inout [ConfigurationProblem]) -> JSONValue {
        switch (self, value) {
        case (.boolean, .boolean):
            return value
        case (.integer(let range), .integer(let number)) where range.contains(number):
            return value
        case (.text(let format), .string(let text)):
            if let fault = format.fault(in: text) {
                problems.append(
                    .init(path: path, found: fault.found ?? value.kind, allowed: allowed, suggestion: fault.suggestion))
            }
            return value
        case (.list(let element, let minimum), .array(let elements)) where elements.count >= minimum:
            return .array(
                elements.enumerated().map { element.normalise($1, path: "\(path)[\($0)]", problems: &problems) })
        case (.object(let fields), .object(let members)):
            return normalise(members, fields: fields, path: path, problems: &problems)
        case (.map(let element), .object(let members)):
            return .object(
                Dictionary(
                    uniqueKeysWithValues: members.map { name, value in
                        (name, element.normalise(value, path: "\(path).\(name)", problems: &problems))
                    }))
        case (.either(let shapes), _):
            for shape in shapes {
                var attempt: [ConfigurationProblem] = []
                let normalised = shape.normalise(value, path: path, problems: &attempt)
                if attempt.isEmpty { return normalised }
            }
            problems.append(.init(path: path, found: value.kind, allowed: allowed, suggestion: nearest(to: value)))
            return value
        default:
            problems.append(.init(path: path, found: value.kind, allowed: allowed, suggestion: nearest(to: value)))
            return value
        }
    }

    private func normalise(
        _ members: [String: JSONValue], fields: [Field], path: String, problems: inout [ConfigurationProblem]
    ) -> JSONValue {
        let names = fields.map(\.name)
        for unknown in members.keys where !names.contains(unknown) {
            problems.append(
                .init(
                    path: "\(path).\(unknown)", found: "unknown key \"\(unknown)\"",
                    allowed: names.isEmpty ? "no key here" : names.sorted().joined(separator: ", "),
                    suggestion: Spelling.nearest(to: unknown, among: names).map { "\"\($0)\"" }))
        }
        var result: [String: JSONValue] = [:]
        for field in fields {
            guard let value = members[field.name] ?? field.fallback else {
                guard field.isRequired else { continue }
                problems.append(
                    .init(path: "\(path).\(field.name)", found: "nothing", allowed: field.shape.allowed))
                continue
            }
            result[field.name] = field.shape.normalise(value, path: "\(path).\(field.name)", problems: &problems)
        }
        return .object(result)
    }

    /// What is allowed, in words.
    public var allowed: String {
        switch self {
        case .boolean: "true or false"
        case .integer(let range): "an integer from \(range.lowerBound) to \(range.upperBound)"
        case .text(let format): format.allowed
        case .list(let element, let minimum):
            "a list\(minimum > 0 ? " of at least \(minimum)" : ""), each \(element.allowed)"
        case .object: "an object"
        case .map(let element): "an object, each value \(element.allowed)"
        case .either(let shapes): shapes.map(\.allowed).joined(separator: ", or ")
        }
    }

    /// A value that fits and that the reader may have meant.
    private func nearest(to value: JSONValue) -> String? {
        switch (self, value) {
        case (.boolean, .string(let text)) where ["true", "false"].contains(text.lowercased()):
            text.lowercased() + " without quotes"
        case (.integer(let range), .string(let text)):
            Int(text).flatMap { range.contains($0) ? "\($0) without quotes" : nil }
        case (.integer(let range), .integer(let number)):
            "\(number < range.lowerBound ? range.lowerBound : range.upperBound)"
        case (.list(let element, _), _) where element.accepts(value):
            "[\(value.text())]"
        case (.either(let shapes), _):
            shapes.lazy.compactMap { $0.nearest(to: value) }.first
        case (.text(.oneOf(let words)), .string(let text)):
            Spelling.nearest(to: text, among: words).map { "\"\($0)\"" }
        default: nil
        }
    }

    private func accepts(_ value: JSONValue) -> Bool {
        var problems: [ConfigurationProblem] = []
        _ = normalise(value, path: "", problems: &problems)
        return problems.isEmpty
    }
}

extension TextFormat {
    var allowed: String {
        switch self {
        case .any(let what): what
        case .oneOf(let words): words.map { "\"\($0)\"" }.joined(separator: ", ")
        case .cidr: "an IPv4 or IPv6 CIDR such as \"10.42.0.0/16\" or \"fd42::/48\""
        case .ipAddress: "an IPv4 or IPv6 address"
        case .endpoint: "address:port such as \"127.0.0.1:9469\" or \"[::1]:9469\""
        case .absolutePath: "an absolute path"
        case .serverURL: "a server such as \"\(ServerURL.title)\""
        case .interfaceName: "an interface name of 1 to 15 bytes"
        case .readable(let what, _): what
        }
    }

    /// What is wrong with `text`; `nil` where nothing is.
    func fault(in text: String) -> (found: String?, suggestion: String?)? {
        switch self {
        case .any: return text.isEmpty ? ("an empty string", nil) : nil
        case .oneOf(let words):
            return words.contains(text) ? nil : (nil, Spelling.nearest(to: text, among: words).map { "\"\($0)\"" })
        case .cidr:
            do {
                _ = try CIDR.parse(text)
                return nil
            } catch CIDR.Fault.hostBitsSet(_, let meant) {
                return ("string \"\(text)\" with host bits set", "\"\(meant)\"")
            } catch {
                return ("string \"\(text)\" (\(error))", nil)
            }
        case .ipAddress: return IPAddress(text) == nil ? (nil, nil) : nil
        case .endpoint: return Endpoint(text) == nil ? (nil, nil) : nil
        case .absolutePath: return text.hasPrefix("/") ? nil : (nil, "\"/\(text)\"")
        case .serverURL:
            guard ServerURL(text) == nil else { return nil }
            return (nil, ServerURL("https://\(text)").map { "\"\($0)\"" })
        case .interfaceName: return InterfaceName.isValid(text) ? nil : (nil, nil)
        case .readable(_, let isReadable): return isReadable(text) ? nil : (nil, nil)
        }
    }
}
