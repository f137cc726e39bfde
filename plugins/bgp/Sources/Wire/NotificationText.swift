extension Notification: CustomStringConvertible {
    /// For people: "hold timer expired", "bad peer AS (OPEN message error)", "administrative shutdown (cease): text".
    var description: String {
        if let cause { return "\(cause), with a hard reset" }
        guard let kind = Code(rawValue: code) else { return "code \(code), subcode \(subcode)" }
        let text = shutdownText.map { ": \($0)" } ?? ""
        guard subcode > 0 else { return kind.name + text }
        let names = kind.subcodeNames
        let name = names.indices.contains(Int(subcode) - 1) ? names[Int(subcode) - 1] : nil
        return "\(name ?? "subcode \(subcode)") (\(kind.name))\(text)"
    }

    /// What the people on the other side wrote (RFC 9003 §2). What cannot be printed is written as U+FFFD.
    var shutdownText: String? {
        guard cease?.hasText == true, let length = data.first, length > 0, data.count > Int(length) else { return nil }
        var text = ""
        for scalar in String(decoding: data[1...Int(length)], as: UTF8.self).unicodeScalars {
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator: text.unicodeScalars.append("\u{FFFD}")
            default: text.unicodeScalars.append(scalar)
            }
        }
        return text
    }
}

/// https://www.iana.org/assignments/bgp-parameters
extension Notification.Code {
    var name: String {
        switch self {
        case .messageHeader: "message header error"
        case .openMessage: "OPEN message error"
        case .updateMessage: "UPDATE message error"
        case .holdTimerExpired: "hold timer expired"
        case .stateMachine: "state machine error"
        case .cease: "cease"
        }
    }

    /// From subcode 1 on.
    var subcodeNames: [String?] {
        switch self {
        case .messageHeader: ["connection not synchronized", "bad message length", "bad message type"]
        case .openMessage:
            [
                "unsupported version number", "bad peer AS", "bad BGP identifier", "unsupported optional parameter",
                nil,
                "unacceptable hold time", "unsupported capability", nil, nil, nil, "role mismatch",
            ]
        case .updateMessage:
            [
                "malformed attribute list", "unrecognized well-known attribute", "missing well-known attribute",
                "attribute flags error", "attribute length error", "invalid ORIGIN", nil, "invalid NEXT_HOP",
                "optional attribute error", "invalid network field", "malformed AS_PATH",
            ]
        case .holdTimerExpired: []
        case .stateMachine:
            [
                "unexpected message in OpenSent", "unexpected message in OpenConfirm",
                "unexpected message in Established",
            ]
        case .cease:
            [
                "maximum number of prefixes reached", "administrative shutdown", "peer de-configured",
                "administrative reset", "connection rejected", "other configuration change",
                "connection collision resolution", "out of resources", "hard reset", "BFD down",
            ]
        }
    }
}
