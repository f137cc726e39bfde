/// The types of messages (RFC 4271 §4.1, RFC 2918 §3).
enum MessageType: UInt8, Sendable, CaseIterable {
    case open = 1
    case update = 2
    case notification = 3
    case keepalive = 4
    case routeRefresh = 5

    /// How many bytes a message may have, its header included (RFC 4271 §6.1).
    var lengths: ClosedRange<Int> {
        switch self {
        case .open: 29...Frame.maximumLength
        case .update: 23...Frame.maximumLength
        case .notification: 21...Frame.maximumLength
        case .keepalive: Frame.headerLength...Frame.headerLength
        case .routeRefresh: 23...23
        }
    }
}

/// A message whose header was checked.
struct Frame: Hashable, Sendable {
    /// Bytes of marker, length and type.
    static let headerLength = 19
    static let maximumLength = 4096

    let type: MessageType
    /// The whole message.
    let bytes: [UInt8]

    fileprivate init(type: MessageType, bytes: [UInt8]) {
        self.type = type
        self.bytes = bytes
    }

    var body: ByteReader { ByteReader(bytes, from: Self.headerLength) }

    /// A message from the bytes behind its header.
    static func message(_ type: MessageType, _ body: [UInt8] = []) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xFF, count: 16)
        bytes.reserveCapacity(headerLength + body.count)
        bytes.append(number: UInt16(headerLength + body.count))
        bytes.append(type.rawValue)
        return bytes + body
    }
}

/// Bytes of a connection in any pieces become whole messages.
struct MessageFrames: Sendable {
    private var bytes: [UInt8] = []
    private var start = 0
    private var failure: Notification?

    mutating func append(_ piece: some Collection<UInt8>) {
        bytes.removeFirst(start)
        start = 0
        bytes += piece
    }

    /// - Returns: the next message, or `nil` until more bytes are there.
    /// - Throws: what is to be sent to the peer; nothing can be read any more then (RFC 4271 §6.1).
    mutating func next() throws(Notification) -> Frame? {
        if let failure { throw failure }
        do throws(Notification) {
            return try read()
        } catch {
            failure = error
            throw error
        }
    }

    private mutating func read() throws(Notification) -> Frame? {
        var header = ByteReader(bytes, from: start)
        guard let marker = header.number(as: UInt128.self), let length = header.short(), let code = header.byte() else {
            return nil
        }
        guard marker == .max else { throw .connectionNotSynchronized }
        guard (Frame.headerLength...Frame.maximumLength).contains(Int(length)) else { throw .badMessageLength(length) }
        guard let type = MessageType(rawValue: code) else { throw .badMessageType(code) }
        guard type.lengths.contains(Int(length)) else { throw .badMessageLength(length) }
        let end = start + Int(length)
        guard end <= bytes.count else { return nil }
        defer { start = end }
        return Frame(type: type, bytes: Array(bytes[start..<end]))
    }
}
