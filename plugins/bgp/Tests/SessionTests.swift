import KnetCore
import Testing

@testable import BGPPlugin

@Suite struct SessionTests {
    private let outgoing = Peering.outgoing
    private let incoming = Peering.incoming

    @Test func aSessionComesUp() throws {
        var peering = Peering()
        #expect(peering.session.state == .idle)
        #expect(peering.on(.start(isRestarting: false)).first == .connect(outgoing))
        #expect(peering.session.state == .connect)
        let opened = peering.on(.opened(outgoing))
        #expect(opened.contains(.send(.open(peering.session.settings.open(isRestarting: false)), outgoing)))
        #expect(opened.wait(.hold(outgoing)) == .seconds(240))
        #expect(peering.session.state == .openSent)
        peering.peer.holdTime = 30
        let confirmed = try peering.say(.open(peering.peer), outgoing)
        #expect(confirmed.contains(.send(.keepalive, outgoing)))
        #expect(confirmed.wait(.hold(outgoing)) == .seconds(30))
        #expect(try #require(confirmed.wait(.keepalive(outgoing))) <= .seconds(10))
        #expect(peering.session.state == .openConfirm)
        let negotiated = try #require(try peering.say(.keepalive, outgoing, after: .seconds(2)).negotiated)
        #expect(negotiated.peerAS == 64_513 && negotiated.context == UpdateContext(isExternal: true))
        #expect(peering.session.state == .established && peering.session.since == .seconds(2))
        #expect(peering.session.counters.received == [.open: 1, .keepalive: 1])
        #expect(peering.session.counters.sent == [.open: 1, .keepalive: 1])
    }

    @Test func aPassiveSessionWaits() throws {
        var peering = Peering { $0.isPassive = true }
        #expect(peering.on(.start(isRestarting: false)).isEmpty)
        #expect(peering.session.state == .active)
        try peering.establish(incoming)
        #expect(peering.session.state == .established)
        peering.on(.closed(incoming), after: .seconds(1000))
        #expect(peering.session.state == .active)
    }

    @Test func aDynamicNeighbourIsForgottenWhenItStaysAway() throws {
        var peering = Peering { ($0.isDynamic, $0.peerAS) = (true, nil) }
        peering.on(.start(isRestarting: false))
        try peering.establish(incoming)
        #expect(peering.on(.closed(incoming), after: .seconds(1)).wait(.idleHold) != nil)
        peering.on(.timer(.idleHold), after: .seconds(1))
        peering.on(.timer(.stale), after: .seconds(120))
        #expect(peering.on(.timer(.connectRetry), after: .seconds(120)).contains(.finished))
        #expect(peering.session.mode == .stopped)
    }

    @Test func attemptsToConnectBecomeRarer() {
        var peering = Peering()
        peering.on(.start(isRestarting: false))
        var waits: [Duration] = []
        for number in 1...8 {
            let actions = peering.on(.failed(.init(side: .outgoing, number: number), "connection refused"))
            #expect(peering.session.state == .active)
            waits.append(actions.wait(.connectRetry) ?? .zero)
            #expect(peering.on(.timer(.connectRetry)).contains(.connect(.init(side: .outgoing, number: number + 1))))
        }
        #expect(waits == waits.sorted() && waits[1] > waits[0] * 1.9 && waits[7] <= .seconds(120))
        #expect(peering.session.lastDown?.description == "unreachable: connection refused")
    }

    @Test func aConnectionThatIsClosedBeforeItsOpenIsTriedAgain() {
        var peering = Peering()
        peering.on(.start(isRestarting: false))
        peering.on(.opened(outgoing))
        #expect(peering.on(.closed(outgoing)).wait(.connectRetry) != nil && peering.session.state == .active)
    }

    @Test func anAttemptWithoutAnAnswerIsGivenUp() {
        var peering = Peering()
        peering.on(.start(isRestarting: false))
        let actions = peering.on(.timer(.connectRetry))
        #expect(actions.contains(.close(outgoing)) && actions.contains(.connect(.init(side: .outgoing, number: 2))))
        #expect(peering.on(.opened(outgoing)) == [.close(outgoing)])
    }

    private static func open(_ change: (inout Open) -> Void) -> Open {
        var open = Peering().peer
        change(&open)
        return open
    }

    private static let refused: [(Open, Notification)] = [
        (open { ($0.shortAS, $0.capabilities) = (1, [.routeRefresh]) }, .badPeerAS),
        (open { $0.capabilities[3] = .fourOctetAS(0) }, .badPeerAS),
        (open { $0.identifier = 0 }, .badIdentifier),
        (open { $0.holdTime = 1 }, .unacceptableHoldTime),
        (open { $0.holdTime = 2 }, .unacceptableHoldTime),
        (
            open { $0.capabilities = [.multiprotocol(AddressFamily(afi: 25, safi: 70)), .fourOctetAS(64_513)] },
            .unsupportedCapability([.multiprotocol(AddressFamily(.v4)), .multiprotocol(AddressFamily(.v6))])
        ),
    ]

    @Test(arguments: refused) func anOpenThatIsNotAcceptableIsRefused(open: Open, notification: Notification) throws {
        var peering = Peering()
        peering.peer = open
        peering.on(.start(isRestarting: false))
        peering.on(.opened(outgoing))
        let actions = try peering.say(.open(peering.peer), outgoing)
        #expect(actions.notifications == [notification] && actions.contains(.close(outgoing)))
        #expect(peering.session.state == .idle && peering.session.lastDown == .sent(notification))
    }

    @Test func anInternalPeerHasAnotherIdentifier() throws {
        var peering = Peering { $0.peerAS = 64_512 }
        peering.peer = peering.session.settings.open(isRestarting: false)
        peering.on(.start(isRestarting: false))
        peering.on(.opened(outgoing))
        #expect(try peering.say(.open(peering.peer), outgoing).notifications == [.badIdentifier])
    }

    @Test func anOpenOfAnotherVersionIsRefused() throws {
        var peering = Peering()
        var bytes = peering.peer.bytes
        bytes[19] = 3
        peering.on(.start(isRestarting: false))
        peering.on(.opened(outgoing))
        #expect(try peering.say(bytes, outgoing).notifications == [.unsupportedVersion])
    }

    @Test func aPeerOfOldHasNumbersOfTwoBytes() throws {
        var peering = Peering { $0.gracefulRestart = nil }
        peering.peer.capabilities = []
        peering.on(.start(isRestarting: false))
        let negotiated = try #require(try peering.establish(outgoing).negotiated)
        #expect(
            negotiated.context == UpdateContext(hasFourOctetAS: false, families: [.v4], isExternal: true)
                && !negotiated.hasRouteRefresh && negotiated.keptByPeer.isEmpty)
    }

    @Test func aSilentPeerIsGivenUp() throws {
        var peering = try Peering.established()
        try peering.say(.keepalive, outgoing, after: .seconds(60))
        let early = peering.on(.timer(.hold(outgoing)), after: .seconds(30))
        #expect(early == [.setTimer(.hold(outgoing), after: .seconds(60))])
        let late = peering.on(.timer(.hold(outgoing)), after: .seconds(60))
        #expect(late.notifications == [.holdTimerExpired] && peering.session.state == .idle)
        #expect(peering.session.lastDown?.description == "sent: hold timer expired" && peering.session.flaps == 1)
    }

    @Test func withoutAHoldTimeNobodyIsWatched() throws {
        let peering = try Peering.established { $0.holdTime = 0 }
        #expect(peering.session.timers.isEmpty)
    }

    @Test func aNotificationEndsTheSession() throws {
        var peering = try Peering.established()
        peering.now += .seconds(10)
        let notification = Notification.cease(.administrativeShutdown, text: "rack 7 moves").asHardReset
        let actions = try peering.say(.notification(notification), outgoing)
        #expect(actions.contains(.down(.received(notification), kept: [])) && actions.contains(.close(outgoing)))
        #expect(actions.notifications.isEmpty && actions.wait(.idleHold) != nil)
        #expect(
            peering.session.lastDown?.description
                == "received: administrative shutdown (cease): rack 7 moves, with a hard reset")
    }

    @Test func aStopSaysWhy() throws {
        var peering = try Peering.established()
        let actions = peering.on(.stop(.cease(.administrativeShutdown, text: "maintenance")))
        #expect(
            actions.notifications == [.cease(.administrativeShutdown, text: "maintenance").asHardReset])
        #expect(peering.session.state == .idle && peering.session.timers.isEmpty)
        #expect(peering.on(.opened(incoming)).notifications == [.cease(.connectionRejected)])
        #expect(peering.on(.start(isRestarting: false)).contains(.connect(.init(side: .outgoing, number: 2))))
    }

    @Test(arguments: [(UpdateError.malformedAttributeList, true), (.attributeFlags, false)])
    func aMalformedUpdateEndsTheSessionOnlyWhereItHasTo(error: UpdateError, ends: Bool) throws {
        var peering = try Peering.established()
        let bytes =
            ends
            ? Frame.message(.update, [0, 1, 0, 0])
            : updateMessage(
                hex("C0 01 01 00" + ErrorHandlingTests.path + ErrorHandlingTests.hop), routes: hex("18 CB0071"))
        let actions = try peering.say(bytes, outgoing)
        guard case .update(let reading) = actions.first else {
            Issue.record("no update in \(actions)")
            return
        }
        #expect(reading.malformations.map(\.notification.subcode) == [error.rawValue])
        #expect((peering.session.state == .idle) == ends)
    }

    @Test func aMessageThatWasNotToComeEndsTheConnection() throws {
        var peering = Peering()
        peering.on(.start(isRestarting: false))
        peering.on(.opened(outgoing))
        #expect(try peering.say(.keepalive, outgoing).notifications == [.unexpectedInOpenSent])
        var established = try Peering.established()
        #expect(
            try established.say(.open(established.peer), outgoing).notifications == [.unexpectedInEstablished])
    }

    @Test func bytesThatAreNoMessagesEndTheConnection() throws {
        var peering = try Peering.established()
        #expect(peering.on(.malformed(.badMessageType(9), outgoing)).notifications == [.badMessageType(9)])
    }

    @Test func routesAreAskedForAgain() throws {
        var peering = try Peering.established()
        let refresh = Message.routeRefresh(RouteRefresh(AddressFamily(.v6)))
        #expect(peering.on(.askRefresh(.v6)) == [.send(refresh, outgoing)])
        #expect(try peering.say(refresh, outgoing) == [.refresh(.v6)])
        #expect(try peering.say(RouteRefresh(AddressFamily(afi: 1, safi: 2)).bytes, outgoing).isEmpty)
    }

    @Test func whoeverFlapsIsHeldLongerEachTime() throws {
        var peering = Peering { $0.gracefulRestart = nil }
        peering.on(.start(isRestarting: false))
        var waits: [Duration] = []
        for number in 1...10 {
            let id = ConnectionID(side: .outgoing, number: number)
            try peering.establish(id)
            let wait = try #require(peering.on(.closed(id), after: .seconds(1)).wait(.idleHold))
            #expect(
                peering.on(.opened(.init(side: .incoming, number: number))).notifications == [
                    .cease(.connectionRejected)
                ])
            waits.append(wait)
            peering.on(.timer(.idleHold), after: wait)
        }
        #expect(waits == waits.sorted() && waits[0] <= .seconds(1) && waits[9] > .seconds(100))
        try peering.establish(.init(side: .outgoing, number: 11))
        // A session that has lasted is forgiven.
        peering.on(.closed(.init(side: .outgoing, number: 11)), after: .seconds(121))
        #expect(peering.session.state == .active && peering.session.flaps == 11)
    }
}
