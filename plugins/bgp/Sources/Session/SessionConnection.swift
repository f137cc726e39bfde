/// One of a session's connections.
struct SessionConnection: Sendable {
    enum Progress: Hashable, Sendable {
        case connecting
        case openSent
        case openConfirm(Negotiated)
        case established(Negotiated)
    }

    let id: ConnectionID
    var progress: Progress
    /// When the last message came, or the connection opened.
    var lastHeard: Duration

    var isEstablished: Bool {
        if case .established = progress { true } else { false }
    }

    /// What both sides have said; `nil` before the peer's OPEN.
    var negotiated: Negotiated? {
        switch progress {
        case .connecting, .openSent: nil
        case .openConfirm(let negotiated), .established(let negotiated): negotiated
        }
    }

    /// How long the peer may be silent; `nil` for ever.
    var holdTime: Duration? {
        switch progress {
        case .connecting: nil
        case .openSent: SessionSettings.openHoldTime
        case .openConfirm(let negotiated), .established(let negotiated): negotiated.holdTime
        }
    }

    /// What is sent where a message was not to come (RFC 6608).
    var unexpected: Notification {
        switch progress {
        case .connecting, .openSent: .unexpectedInOpenSent
        case .openConfirm: .unexpectedInOpenConfirm
        case .established: .unexpectedInEstablished
        }
    }
}

/// How many messages of each type.
struct MessageCounters: Hashable, Sendable {
    private(set) var sent: [MessageType: Int] = [:]
    private(set) var received: [MessageType: Int] = [:]

    mutating func countSent(_ type: MessageType, _ count: Int = 1) { sent[type, default: 0] += count }

    mutating func countReceived(_ type: MessageType) { received[type, default: 0] += 1 }
}
