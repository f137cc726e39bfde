import KnetCore
import TestSupport
import Testing

@testable import BGPPlugin

@Suite struct MessageTests {
    private static let open = Open(
        shortAS: 64_512, holdTime: 90, identifier: 0x0A00_0001,
        capabilities: [
            .multiprotocol(AddressFamily(.v4)), .multiprotocol(AddressFamily(.v6)), .routeRefresh,
            .fourOctetAS(4_200_000_000),
            .gracefulRestart(
                GracefulRestart(
                    isRestarting: true, coversNotifications: true, time: 120,
                    families: [.init(family: AddressFamily(.v6), keptForwarding: true)])),
            .extendedNextHop([.init(family: AddressFamily(.v4), nextHopAFI: 2)]),
            .other(code: 73, value: [1, 2, 3]),
        ])

    @Test func anOpenMessageIsReadAsItWasWritten() throws {
        #expect(try Open.read(try frame(Self.open.bytes)) == Self.open)
        #expect(Self.open.autonomousSystem == 4_200_000_000)
    }

    @Test(arguments: [0, 1, 62, 63, 64, 100, 900]) func capabilitiesMayBeMany(count: Int) throws {
        var open = Self.open
        open.capabilities = (0..<count).map { .fourOctetAS(UInt32($0)) }.prefix(count).map { $0 }
        guard open.bytes.count <= Frame.maximumLength else { return }
        #expect(try Open.read(try frame(open.bytes)) == open)
    }

    @Test(arguments: [
        ("03 FC00 005A 0A000001 00", Notification.unsupportedVersion),
        ("04 FC00 005A 0A000001 01", .malformedOpen),
        ("04 FC00 005A 0A000001 00 00", .malformedOpen),
        ("04 FC00 005A 0A000001 03 02 02 01", .malformedOpen),
        ("04 FC00 005A 0A000001 03 02 01 01", .malformedOpen),
        ("04 FC00 005A 0A000001 03 01 01 00", .unsupportedOptionalParameter),
        ("04 FC00 005A 0A000001 FF FF 0001", .malformedOpen),
    ]) func anOpenMessageThatIsNotWellFormedIsRefused(body: String, notification: Notification) throws {
        let frame = try frame(Frame.message(.open, hex(body)))
        #expect(throws: notification) { try Open.read(frame) }
    }

    @Test func messagesComeOutOfPiecesOfAnySize() throws {
        let messages = [
            Self.open.bytes, Message.keepalive.bytes, updateMessage([]), Notification.holdTimerExpired.bytes,
            RouteRefresh(AddressFamily(.v6)).bytes,
        ]
        let stream = messages.flatMap { $0 }
        for size in 1...stream.count {
            var (frames, read) = (MessageFrames(), [[UInt8]]())
            for start in stride(from: 0, to: stream.count, by: size) {
                frames.append(stream[start..<min(start + size, stream.count)])
                while let frame = try frames.next() { read.append(frame.bytes) }
            }
            #expect(read == messages, "in pieces of \(size) bytes")
        }
    }

    private static let marker = String(repeating: "FF", count: 16)

    @Test(arguments: [
        (String(repeating: "FF", count: 15) + "FE 0013 04", Notification.connectionNotSynchronized),
        (marker + "0012 04", .badMessageLength(18)), (marker + "1001 02", .badMessageLength(4097)),
        (marker + "0014 04", .badMessageLength(20)), (marker + "001C 01", .badMessageLength(28)),
        (marker + "0016 02", .badMessageLength(22)), (marker + "0014 03", .badMessageLength(20)),
        (marker + "0018 05", .badMessageLength(24)), (marker + "0013 00", .badMessageType(0)),
        (marker + "0013 06", .badMessageType(6)),
    ]) func aBadHeaderTellsItsNotification(header: String, notification: Notification) {
        var frames = MessageFrames()
        frames.append(hex(header))
        #expect(throws: notification) { try frames.next() }
        frames.append(Message.keepalive.bytes)
        #expect(throws: notification) { try frames.next() }
    }

    @Test(arguments: [
        (Notification.holdTimerExpired, "hold timer expired"),
        (.badPeerAS, "bad peer AS (OPEN message error)"),
        (.unexpectedInOpenSent, "unexpected message in OpenSent (state machine error)"),
        (.cease(.administrativeShutdown), "administrative shutdown (cease)"),
        (.cease(.administrativeShutdown, text: "rack 7 moves"), "administrative shutdown (cease): rack 7 moves"),
        (.cease(.administrativeReset, text: "a\nb"), "administrative reset (cease): a\u{FFFD}b"),
        (
            .cease(.peerDeconfigured).asHardReset, "peer de-configured (cease), with a hard reset"
        ),
        (Notification(.openMessage, 99), "subcode 99 (OPEN message error)"),
        (Notification(.cease, 2, data: [200, 65]), "administrative shutdown (cease)"),
    ]) func aNotificationSpeaksInWords(notification: Notification, words: String) throws {
        #expect(notification.description == words)
        #expect(Notification.read(try frame(notification.bytes)) == notification)
    }

    @Test func aShutdownTextEndsBetweenCharacters() {
        let text = Notification.cease(.administrativeShutdown, text: String(repeating: "ü", count: 300)).shutdownText
        #expect(text == String(repeating: "ü", count: 127))
    }

    @Test func aRouteRefreshIsReadAsItWasWritten() throws {
        let refresh = RouteRefresh(AddressFamily(afi: 2, safi: 128), subtype: 1)
        #expect(RouteRefresh.read(try frame(refresh.bytes)) == refresh)
    }
}
