/// The message that ends a session, and why (RFC 4271 §4.5).
struct Notification: Error, Hashable, Sendable {
    let code: UInt8
    let subcode: UInt8
    let data: [UInt8]

    init(_ code: Code, _ subcode: UInt8 = 0, data: [UInt8] = []) {
        self.init(code: code.rawValue, subcode: subcode, data: data)
    }

    private init(code: UInt8, subcode: UInt8, data: [UInt8]) {
        self.code = code
        self.subcode = subcode
        // What is quoted of a message may be longer than a message has room.
        self.data = Array(data.prefix(Frame.maximumLength - Frame.headerLength - 2))
    }

    enum Code: UInt8 {
        case messageHeader = 1
        case openMessage = 2
        case updateMessage = 3
        case holdTimerExpired = 4
        case stateMachine = 5
        case cease = 6
    }

    /// - Parameter frame: of the type notification.
    static func read(_ frame: Frame) -> Notification {
        var body = frame.body
        return Notification(code: body.byte() ?? 0, subcode: body.byte() ?? 0, data: body.rest)
    }

    var bytes: [UInt8] { Frame.message(.notification, [code, subcode] + data) }
}

/// RFC 4271 §6.1, §6.2, §6.5; RFC 5492 §5; RFC 6608.
extension Notification {
    static let connectionNotSynchronized = Notification(.messageHeader, 1)
    static func badMessageLength(_ length: UInt16) -> Notification {
        Notification(.messageHeader, 2, data: [UInt8(length >> 8), UInt8(truncatingIfNeeded: length)])
    }
    static func badMessageType(_ type: UInt8) -> Notification { Notification(.messageHeader, 3, data: [type]) }

    static let malformedOpen = Notification(.openMessage)
    /// With the version that is spoken here.
    static let unsupportedVersion = Notification(.openMessage, 1, data: [0, Open.version])
    static let badPeerAS = Notification(.openMessage, 2)
    static let badIdentifier = Notification(.openMessage, 3)
    static let unsupportedOptionalParameter = Notification(.openMessage, 4)
    static let unacceptableHoldTime = Notification(.openMessage, 6)
    static func unsupportedCapability(_ needed: [Capability]) -> Notification {
        Notification(.openMessage, 7, data: needed.flatMap(\.bytes))
    }

    static let holdTimerExpired = Notification(.holdTimerExpired)
    static let unexpectedInOpenSent = Notification(.stateMachine, 1)
    static let unexpectedInOpenConfirm = Notification(.stateMachine, 2)
    static let unexpectedInEstablished = Notification(.stateMachine, 3)
}

/// Why a peer is left without an error (RFC 4486, RFC 8538 §3, RFC 9384).
enum Cease: UInt8, Sendable, CaseIterable {
    case maximumPrefixes = 1
    case administrativeShutdown = 2
    case peerDeconfigured = 3
    case administrativeReset = 4
    case connectionRejected = 5
    case otherConfigurationChange = 6
    case connectionCollision = 7
    case outOfResources = 8
    case hardReset = 9
    case bfdDown = 10

    /// Whether it can have a text for people (RFC 9003 §2).
    var hasText: Bool { self == .administrativeShutdown || self == .administrativeReset }
}

extension Notification {
    /// - Parameter text: for the people on the other side, at most 255 bytes; only with a shutdown or a reset.
    static func cease(_ reason: Cease, text: String = "") -> Notification {
        guard reason.hasText, !text.isEmpty else { return Notification(.cease, reason.rawValue) }
        var utf8: [UInt8] = []
        for scalar in text.unicodeScalars {
            let encoded = Array(String(scalar).utf8)
            guard utf8.count + encoded.count <= 255 else { break }
            utf8 += encoded
        }
        return Notification(.cease, reason.rawValue, data: [UInt8(utf8.count)] + utf8)
    }

    var cease: Cease? { code == Code.cease.rawValue ? Cease(rawValue: subcode) : nil }

    /// The same in a form after which no route is kept (RFC 8538 §3.1).
    var asHardReset: Notification { Notification(.cease, Cease.hardReset.rawValue, data: [code, subcode] + data) }

    /// What a hard reset is for.
    var cause: Notification? {
        guard cease == .hardReset, data.count >= 2 else { return nil }
        return Notification(code: data[0], subcode: data[1], data: Array(data[2...]))
    }
}
