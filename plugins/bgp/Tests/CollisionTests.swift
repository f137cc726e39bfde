import KnetCore
import Testing

@testable import BGPPlugin

/// RFC 4271 §6.8.
@Suite struct CollisionTests {
    private let outgoing = Peering.outgoing
    private let incoming = Peering.incoming
    private let collision = Message.notification(.cease(.connectionCollision))

    private func bothOpen(identifier: UInt32) -> Peering {
        var peering = Peering(identifier: identifier)
        peering.on(.start(isRestarting: false))
        peering.on(.opened(incoming))
        peering.on(.opened(outgoing))
        return peering
    }

    /// The peer's identifier is 5.
    @Test(arguments: [1, 9] as [UInt32], [true, false])
    func theConnectionOfTheHigherIdentifierStays(identifier: UInt32, incomingFirst: Bool) throws {
        var peering = bothOpen(identifier: identifier)
        let (first, second) = incomingFirst ? (incoming, outgoing) : (outgoing, incoming)
        try peering.say(.open(peering.peer), first)
        let actions = try peering.say(.open(peering.peer), second)
        let (kept, lost) = identifier > 5 ? (outgoing, incoming) : (incoming, outgoing)
        #expect(actions.contains(.send(collision, lost)) && actions.contains(.close(lost)))
        #expect(peering.session.connections.map(\.id) == [kept])
        #expect(try peering.say(.keepalive, kept).negotiated != nil)
    }

    @Test(arguments: [(UInt32(64_511), Peering.incoming), (UInt32(64_514), Peering.outgoing)])
    func withEqualIdentifiersTheHigherASDecides(localAS: UInt32, kept: ConnectionID) throws {
        var peering = Peering(identifier: 5) { $0.localAS = localAS }
        peering.on(.start(isRestarting: false))
        for id in [outgoing, incoming] {
            peering.on(.opened(id))
            try peering.say(.open(peering.peer), id)
        }
        #expect(peering.session.connections.map(\.id) == [kept])
    }

    @Test func whatIsEstablishedEndsTheOther() throws {
        var peering = bothOpen(identifier: 1)
        try peering.say(.open(peering.peer), outgoing)
        let actions = try peering.say(.keepalive, outgoing)
        #expect(actions.contains(.send(collision, incoming)) && peering.session.state == .established)
    }

    @Test func theLostConnectionIsNoError() throws {
        var peering = bothOpen(identifier: 1)
        try peering.say(.open(peering.peer), incoming)
        try peering.say(collision, outgoing)
        #expect(peering.session.state == .openConfirm)
        peering.on(.closed(outgoing))
        #expect(try peering.say(.keepalive, incoming).negotiated != nil)
    }

    @Test func besideAnEstablishedConnectionNoneIsAccepted() throws {
        var peering = try Peering.established { $0.gracefulRestart = nil }
        #expect(peering.on(.opened(incoming)) == [.send(collision, incoming), .close(incoming)])
    }

    @Test func aSecondIncomingConnectionReplacesTheFirst() {
        var peering = bothOpen(identifier: 1)
        let second = ConnectionID(side: .incoming, number: 2)
        #expect(peering.on(.opened(second)).contains(.send(collision, incoming)))
        #expect(peering.session.connections.map(\.id) == [outgoing, second])
    }
}
