import KnetBFD
import TestSupport
import Testing

/// How intervals change while a session is Up (RFC 5880 §6.5, §6.8.3), and what a neighbour in demand mode gets.
@Suite struct PollSequenceTests {
    private static func linkUp() throws -> SimulatedLink {
        var link = SimulatedLink(try parameters(300, 300), try parameters(300, 300))
        try #require(link.run(for: .seconds(2)) { $0.areUp })
        link.run(for: .seconds(3))
        return link
    }

    @Test func aPollIsAnsweredAtOnceAndEndsThere() throws {
        var link = try Self.linkUp()
        let start = link.now
        link.ends[0].change(try parameters(500, 300), now: start)
        link.run(for: .seconds(10))
        let polls = link.sent(by: 0, since: start).filter(\.packet.isPoll)
        let finals = link.sent(by: 1, since: start).filter(\.packet.isFinal)
        #expect(polls.map(\.at) == [start] && finals.map(\.at) == [start + link.flight])
        #expect(link.sent.allSatisfy { !($0.packet.isPoll && $0.packet.isFinal) })
        #expect(finals.allSatisfy { !$0.packet.isPoll })
    }

    @Test func sendingSlowsDownOnlyWhenTheNeighbourKnows() throws {
        var link = try Self.linkUp()
        link.loss[1] = 1
        link.ends[0].change(try parameters(1_500, 300), now: link.now)
        link.run(for: .milliseconds(500))
        #expect(link.ends[0].transmitInterval == .milliseconds(300))
        #expect(link.ends[1].detectionTime == .milliseconds(4_500))
        link.loss[1] = 0
        link.run(for: .milliseconds(310))
        #expect(link.ends[0].transmitInterval == .milliseconds(1_500))
        #expect(link.areUp)
    }

    @Test func lessSilenceIsBorneOnlyWhenTheNeighbourKnows() throws {
        var link = SimulatedLink(try parameters(300, 900), try parameters(100, 300))
        try #require(link.run(for: .seconds(2)) { $0.areUp })
        link.run(for: .seconds(4))
        #expect(link.ends[0].detectionTime == .milliseconds(2_700))
        link.loss[1] = 1
        link.ends[0].change(try parameters(300, 100), now: link.now)
        link.run(for: .milliseconds(500))
        #expect(link.ends[0].detectionTime == .milliseconds(2_700))
        #expect(link.ends[1].transmitInterval == .milliseconds(100))
        link.loss[1] = 0
        link.run(for: .milliseconds(310))
        #expect(link.ends[0].detectionTime == .milliseconds(300))
        #expect(link.areUp)
    }

    @Test func fasterSendingAndMorePatienceTakeForceAtOnce() throws {
        var link = try Self.linkUp()
        link.ends[0].change(try parameters(100, 800), now: link.now)
        #expect(link.ends[0].transmitInterval == .milliseconds(300), "the neighbour takes no more")
        #expect(link.ends[0].detectionTime == .milliseconds(2_400))
    }

    /// The final of the first sequence may be from before the second change.
    @Test func aChangeDuringASequenceHasItsOwn() throws {
        var link = try Self.linkUp()
        let start = link.now
        link.flight = .milliseconds(50)
        link.ends[0].change(try parameters(500, 300), now: start)
        link.run(for: .milliseconds(10))
        link.ends[0].change(try parameters(700, 300), now: link.now)
        link.run(for: .milliseconds(105))
        #expect(link.ends[0].transmitInterval == .milliseconds(300), "answered was the first poll")
        link.run(for: .seconds(2))
        #expect(link.ends[0].transmitInterval == .milliseconds(700))
        link.run(for: .seconds(5))
        #expect(link.sent(by: 0, since: start + .seconds(3)).allSatisfy { !$0.packet.isPoll })
    }

    @Test func anotherMultiplierNeedsNoPoll() throws {
        var link = try Self.linkUp()
        let start = link.now
        link.ends[0].change(try parameters(300, 300, 7), now: start)
        link.run(for: .seconds(1))
        #expect(link.ends[1].detectionTime == .milliseconds(2_100))
        #expect(link.sent(by: 0, since: start).allSatisfy { !$0.packet.isPoll })
        #expect(link.sent(by: 0, since: start).first?.at == start)
    }

    @Test func aNeighbourInDemandModeGetsPollsAndAnswersOnly() throws {
        var link = try Self.linkUp()
        var packet = try #require(link.sent(by: 1).last?.packet)
        packet.isDemand = true
        _ = link.ends[0].receive(packet, now: link.now)
        #expect(link.ends[0].nextDeadline == link.now + link.ends[0].detectionTime, "nothing is to be sent")
        packet.isPoll = true
        _ = link.ends[0].receive(packet, now: link.now)
        let answer = link.ends[0].tick(now: link.now, using: &link.random).packets
        #expect(answer.map(\.isFinal) == [true] && answer.map(\.isDemand) == [false])
        packet.isPoll = false
        link.ends[0].change(try parameters(400, 300), now: link.now)
        var later = link.now
        for _ in 0..<3 {
            later += .milliseconds(600)
            _ = link.ends[0].receive(packet, now: later)
            #expect(link.ends[0].tick(now: later, using: &link.random).packets.map(\.isPoll) == [true])
        }
        packet.isFinal = true
        _ = link.ends[0].receive(packet, now: later)
        #expect(link.ends[0].nextDeadline == later + link.ends[0].detectionTime)
        packet.isFinal = false
        packet.state = .down
        _ = link.ends[0].receive(packet, now: later)
        #expect(link.ends[0].tick(now: later, using: &link.random).packets.map(\.state) == [.down])
        #expect(link.ends[0].nextDeadline.map { $0 <= later + .seconds(1) } == true, "periodic again")
    }

    @Test func aNeighbourThatWantsNoPacketsGetsNewsOnly() throws {
        var link = try Self.linkUp()
        var packet = try #require(link.sent(by: 1).last?.packet)
        packet.requiredMinRxInterval = 0
        _ = link.ends[0].receive(packet, now: link.now)
        #expect(link.ends[0].nextDeadline == link.now + link.ends[0].detectionTime)
        let silent = link.now + link.ends[0].detectionTime
        #expect(link.ends[0].tick(now: silent, using: &link.random).packets.map(\.state) == [.down])
        #expect(link.ends[0].nextDeadline != nil, "it is looked for again")
    }
}
