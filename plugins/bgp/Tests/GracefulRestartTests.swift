import KnetCore
import Testing

@testable import BGPPlugin

/// RFC 4724 and RFC 8538.
@Suite struct GracefulRestartTests {
    private let outgoing = Peering.outgoing
    private let incoming = Peering.incoming
    private let both: Set<IPFamily> = [.v4, .v6]

    @Test func bothSidesKnowWhatIsKept() throws {
        var peering = Peering()
        peering.on(.start(isRestarting: true))
        let negotiated = try #require(try peering.establish(outgoing).negotiated)
        #expect(negotiated.keptByPeer == both && negotiated.keptForPeer == both && negotiated.forwardedByPeer == both)
        #expect(negotiated.isRestarting && !negotiated.peerIsRestarting && negotiated.coversNotifications)
        #expect(negotiated.peerRestartTime == .seconds(120) && !peering.session.isRestarting)
    }

    @Test func routesOfALostPeerAreKeptUntilItsTimeIsUp() throws {
        var peering = try Peering.established()
        let actions = peering.on(.closed(outgoing), after: .seconds(500))
        #expect(actions.contains(.down(.closed, kept: both)) && actions.wait(.stale) == .seconds(120))
        #expect(peering.session.state == .active)
        #expect(peering.on(.timer(.stale), after: .seconds(120)) == [.removeStale(both)])
    }

    @Test func routesThatAreToldAgainReplaceWhatWasKept() throws {
        var peering = try Peering.established()
        peering.on(.closed(outgoing), after: .seconds(500))
        peering.on(.opened(incoming))
        try peering.say(.open(peering.peer), incoming)
        #expect(try peering.say(.keepalive, incoming).wait(.stale) == .seconds(360))
        let writer = UpdateWriter(context: .external)
        #expect(try peering.say(writer.endOfRIB(.v4), incoming).contains(.removeStale([.v4])))
        let last = try peering.say(writer.endOfRIB(.v6), incoming)
        #expect(last.contains(.removeStale([.v6])) && last.contains(.cancelTimer(.stale)))
    }

    @Test func onlyFamiliesThatWereForwardedAreStillKept() throws {
        var peering = try Peering.established()
        peering.on(.closed(outgoing), after: .seconds(500))
        peering.without(\.isGracefulRestart)
        peering.peer.capabilities.append(
            .gracefulRestart(
                GracefulRestart(
                    isRestarting: true, time: 60,
                    families: [
                        .init(family: AddressFamily(.v4), keptForwarding: true),
                        .init(family: AddressFamily(.v6), keptForwarding: false),
                    ])))
        let actions = try peering.establish(incoming)
        #expect(actions.contains(.removeStale([.v6])) && peering.session.stale == [.v4])
        #expect(actions.negotiated?.peerIsRestarting == true && actions.negotiated?.coversNotifications == false)
    }

    @Test func whatWasKeptOnceIsNotKeptTwice() throws {
        var peering = try Peering.established()
        peering.on(.closed(outgoing), after: .seconds(500))
        try peering.establish(incoming)
        let actions = peering.on(.closed(incoming), after: .seconds(500))
        let removal = try #require(actions.firstIndex(of: .removeStale(both)))
        let end = try #require(actions.firstIndex(of: .down(.closed, kept: both)))
        #expect(removal < end)
    }

    @Test func aPeerThatConnectsAnewReplacesItsOldConnection() throws {
        var peering = try Peering.established()
        let opened = peering.on(.opened(incoming))
        #expect(!opened.contains(.close(outgoing)) && peering.session.state == .established)
        let actions = try peering.say(.open(peering.peer), incoming)
        #expect(actions.contains(.down(.replaced, kept: both)) && actions.contains(.close(outgoing)))
        #expect(actions.notifications.isEmpty && peering.session.state == .openConfirm)
        #expect(try peering.say(.keepalive, incoming).negotiated != nil)
    }

    @Test func aStrangerDoesNotReplaceAConnection() throws {
        var peering = try Peering.established()
        peering.on(.opened(incoming))
        peering.peer.capabilities = [.fourOctetAS(1)]
        #expect(try peering.say(.open(peering.peer), incoming).notifications == [.badPeerAS])
        #expect(peering.session.state == .established && peering.session.flaps == 0)
    }

    @Test(arguments: [
        (Notification.cease(.administrativeReset), true, true), (.cease(.administrativeReset), false, false),
        (.cease(.administrativeReset).asHardReset, true, false), (.holdTimerExpired, true, true),
    ]) func aNotificationKeepsRoutesWhereBothSaidSo(
        notification: Notification, peerCovers: Bool, isGraceful: Bool
    ) throws {
        var peering = Peering()
        if !peerCovers {
            guard var restart = peering.peer.gracefulRestart else { return }
            restart.coversNotifications = false
            peering.without(\.isGracefulRestart)
            peering.peer.capabilities.append(.gracefulRestart(restart))
        }
        peering.on(.start(isRestarting: false))
        try peering.establish(outgoing)
        let actions = try peering.say(.notification(notification), outgoing)
        #expect(actions.contains(.down(.received(notification), kept: isGraceful ? both : [])))
    }

    @Test func aRestartIsNotAnnounced() throws {
        var peering = try Peering.established()
        let actions = peering.on(.stop(.restart))
        #expect(actions.notifications.isEmpty && actions.contains(.close(outgoing)))
        #expect(actions.contains(.down(.stopped(.restart), kept: both)))
    }
}
