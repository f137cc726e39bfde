/// What a malformed part of an UPDATE leads to, from the weakest (RFC 7606 §2).
enum Reaction: Int, Sendable, Comparable {
    case attributeDiscard
    case treatAsWithdraw
    case sessionReset

    static func < (a: Reaction, b: Reaction) -> Bool { a.rawValue < b.rawValue }
}

/// A part of an UPDATE that is not as it has to be.
struct Malformation: Hashable, Sendable, CustomStringConvertible {
    /// The attribute's type; `nil` where it is not an attribute's fault.
    let attribute: UInt8?
    let fault: String
    let reaction: Reaction
    /// What is sent with a reset.
    let notification: Notification

    var description: String { attribute.map { "attribute \($0): \(fault)" } ?? fault }
}

/// The subcodes of an UPDATE message error (RFC 4271 §6.3).
enum UpdateError: UInt8 {
    case malformedAttributeList = 1
    case unrecognizedWellKnown = 2
    case missingWellKnown = 3
    case attributeFlags = 4
    case attributeLength = 5
    case invalidOrigin = 6
    case invalidNextHop = 8
    case optionalAttribute = 9
    case invalidNetworkField = 10
    case malformedASPath = 11
}
