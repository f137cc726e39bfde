/// An error as the CNI specification has it
/// (https://github.com/containernetworking/cni/blob/main/SPEC.md#error).
public struct CNIError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Codes 1–99 are the specification's, from 100 on they are knetd's.
    public enum Code: Int, Sendable {
        case incompatibleVersion = 1
        case unknownContainer = 3
        case invalidEnvironment = 4
        case inputOutput = 5
        case undecodable = 6
        case invalidConfig = 7
        case tryAgainLater = 11
        case unavailable = 50
        case limitedConnectivity = 51
        /// No free address in a range of this node.
        case rangeExhausted = 100
        /// The container has an interface of this name already.
        case alreadyAttached = 101
        /// CHECK found the attachment not as ADD left it.
        case changed = 102
        /// The kernel refused.
        case kernel = 103
        /// Another attachment has the address or the host port.
        case alreadyTaken = 104
    }

    public let code: Code
    public let message: String
    public let details: String

    public init(_ code: Code, _ message: String, details: String = "") {
        self.code = code
        self.message = message
        self.details = details
    }

    public var description: String { details.isEmpty ? message : "\(message): \(details)" }

    /// The error as printed on standard output.
    public func json(version: CNIVersion) -> JSONValue {
        [
            "cniVersion": .string(version.rawValue), "code": .integer(code.rawValue), "msg": .string(message),
            "details": .string(details),
        ]
    }
}

/// The versions of the CNI specification that knetd speaks.
public enum CNIVersion: String, Sendable, CaseIterable, Comparable, Codable {
    case v031 = "0.3.1"
    case v040 = "0.4.0"
    case v100 = "1.0.0"
    case v110 = "1.1.0"

    public static let latest = CNIVersion.v110

    public static func < (a: CNIVersion, b: CNIVersion) -> Bool {
        (allCases.firstIndex(of: a) ?? 0) < (allCases.firstIndex(of: b) ?? 0)
    }

    /// The answer to VERSION.
    public static func report(for asked: String) -> JSONValue {
        ["cniVersion": .string(asked), "supportedVersions": .array(allCases.map { .string($0.rawValue) })]
    }
}
