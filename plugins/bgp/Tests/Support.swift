import Glibc
import KnetCore
import TestSupport
import Testing

@testable import BGPPlugin

/// Bytes from pairs of hexadecimal digits.
func hex(_ text: String) -> [UInt8] {
    let digits = text.filter { !$0.isWhitespace }.compactMap(\.hexDigitValue)
    return stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
}

func cidr(_ text: String) throws -> CIDR { try CIDR.parse(text) }

func address(_ text: String) throws -> IPAddress { try #require(IPAddress(text)) }

/// The one message that the bytes are.
func frame(_ bytes: [UInt8]) throws -> Frame {
    var frames = MessageFrames()
    frames.append(bytes)
    return try #require(try frames.next())
}

func number(ofEnvironment name: String, otherwise: Int) -> Int {
    getenv(name).flatMap { Int(String(cString: $0)) } ?? otherwise
}

/// An UPDATE message from its three parts.
func updateMessage(withdrawn: [UInt8] = [], _ attributes: [UInt8], routes: [UInt8] = []) -> [UInt8] {
    var body: [UInt8] = []
    body.append(number: UInt16(withdrawn.count))
    body += withdrawn
    body.append(number: UInt16(attributes.count))
    return Frame.message(.update, body + attributes + routes)
}

extension UpdateContext {
    static let external = UpdateContext(isExternal: true)
    static let `internal` = UpdateContext(isExternal: false)
    static let narrow = UpdateContext(hasFourOctetAS: false, isExternal: true)
}

extension Update {
    /// In the order in which it is written: an announcement for each prefix, IPv4 withdrawn before IPv6.
    var normalized: Update {
        var update = self
        update.withdrawn = withdrawn.filter { $0.family == .v4 } + withdrawn.filter { $0.family == .v6 }
        update.announced = announced.flatMap { announcement in
            announcement.prefixes.map { Announcement(nextHop: announcement.nextHop, prefixes: [$0]) }
        }
        return update
    }
}

extension UpdateReading {
    /// What was read, written again and read again; `nil` where the attributes leave no room.
    func again(_ context: UpdateContext) throws -> Update? {
        let writer = UpdateWriter(context: context)
        var messages = writer.withdraw(update.withdrawn)
        for announcement in update.announced {
            do {
                messages += try writer.announce(
                    announcement.prefixes, nextHop: announcement.nextHop, update.attributes)
            } catch {
                return nil
            }
        }
        if let family = update.endOfRIB { messages.append(writer.endOfRIB(family)) }
        var whole = Update()
        for message in messages {
            #expect(message.count <= Frame.maximumLength)
            let reading = Update.read(try frame(message), context)
            #expect(reading.malformations.isEmpty, "\(reading.malformations) in \(message)")
            whole.withdrawn += reading.update.withdrawn
            whole.announced += reading.update.announced
            if !reading.update.announced.isEmpty { whole.attributes = reading.update.attributes }
            if let family = reading.update.endOfRIB { whole.endOfRIB = family }
        }
        return whole.normalized
    }
}
