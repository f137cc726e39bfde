/// The state of a session (RFC 5880 §6.2); the raw value is the packet's two bits.
package enum SessionState: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    /// Held down by an operator: nothing is said about the path.
    case adminDown = 0
    case down = 1
    /// The neighbour is heard; whether it hears this end is not known yet.
    case initializing = 2
    case up = 3

    /// From the lower two bits.
    init(bits: UInt8) {
        switch bits & 3 {
        case 0: self = .adminDown
        case 1: self = .down
        case 2: self = .initializing
        default: self = .up
        }
    }

    package var description: String {
        switch self {
        case .adminDown: "AdminDown"
        case .down: "Down"
        case .initializing: "Init"
        case .up: "Up"
        }
    }
}

/// Why a session left Up the last time (RFC 5880 §4.1): 5 bits, of which 9…31 are reserved.
package struct Diagnostic: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    /// 0…31.
    package let rawValue: UInt8

    /// Bits above the lower five are dropped.
    package init(rawValue: UInt8) { self.rawValue = rawValue & 0x1F }

    package static let none = Diagnostic(rawValue: 0)
    package static let detectionTimeExpired = Diagnostic(rawValue: 1)
    package static let echoFailed = Diagnostic(rawValue: 2)
    package static let neighborSignaledDown = Diagnostic(rawValue: 3)
    package static let forwardingPlaneReset = Diagnostic(rawValue: 4)
    package static let pathDown = Diagnostic(rawValue: 5)
    package static let concatenatedPathDown = Diagnostic(rawValue: 6)
    package static let administrativelyDown = Diagnostic(rawValue: 7)
    package static let reverseConcatenatedPathDown = Diagnostic(rawValue: 8)

    private static let names = [
        "no diagnostic", "control detection time expired", "echo function failed", "neighbour signaled session down",
        "forwarding plane reset", "path down", "concatenated path down", "administratively down",
        "reverse concatenated path down",
    ]

    package var description: String {
        Int(rawValue) < Self.names.count ? Self.names[Int(rawValue)] : "diagnostic \(rawValue)"
    }
}

/// A session's move from one state to another.
package struct StateChange: Hashable, Sendable, CustomStringConvertible {
    package let from: SessionState
    package let to: SessionState
    /// What packets say of it from now on.
    package let diagnostic: Diagnostic
    /// Whether routes over the neighbour are to be withdrawn: the session was Up, and no operator ended it at either
    /// end (AdminDown says nothing about the path, RFC 5880 §6.2).
    package let isPathFailure: Bool
    /// In words, for the log.
    package let reason: String

    package var description: String { "\(from) → \(to): \(reason)" }
}
