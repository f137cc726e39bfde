import KnetBFD
import TestSupport
import Testing

/// Scenarios between two ends on a link without loss.
@Suite struct LivenessSessionTests {
    /// 300 ms × 3 at both ends, Up, and the poll sequences over.
    private static func linkUp(
        _ first: SessionParameters? = nil, _ second: SessionParameters? = nil
    ) throws -> SimulatedLink {
        let usual = try parameters(300, 300)
        var link = SimulatedLink(first ?? usual, second ?? usual)
        try #require(link.run(for: .seconds(2)) { $0.areUp })
        link.run(for: .seconds(3))
        return link
    }

    @Test func bothEndsComeUpAfterThreeFlights() throws {
        var link = SimulatedLink(try parameters(300, 300), try parameters(300, 300))
        #expect(link.run(for: link.flight * 3) { $0.areUp })
        #expect(link.history(of: 0) == ["Down → Init", "Init → Up"])
        #expect(link.ends.allSatisfy { $0.diagnostic == .none })
    }

    @Test func aLateNeighbourIsFoundWithinASecond() throws {
        var link = SimulatedLink(try parameters(300, 300), try parameters(300, 300))
        link.isStopped[1] = true
        link.run(for: .seconds(60))
        let packets = link.sent(by: 0)
        #expect((60...81).contains(packets.count), "\(packets.count) packets in a minute without a neighbour")
        #expect(packets.allSatisfy { $0.packet.desiredMinTxInterval == 1_000_000 && !$0.packet.isPoll })
        link.restart(1, discriminator: 22)
        #expect(link.run(for: .milliseconds(1_010)) { $0.areUp })
    }

    @Test(
        arguments: [
            (100, 100, 300, 300, 300), (50, 400, 200, 100, 400), (500, 50, 100, 100, 100),
        ] as [(UInt32, UInt32, UInt32, UInt32, Int)])
    func theSlowerEndSetsTheInterval(
        _ transmit: UInt32, _ receive: UInt32, _ otherTransmit: UInt32, _ otherReceive: UInt32, expected: Int
    ) throws {
        let link = try Self.linkUp(try parameters(transmit, receive), try parameters(otherTransmit, otherReceive, 5))
        #expect(link.ends[0].detectionTime == .milliseconds(expected * 5))
        #expect(link.ends[1].transmitInterval == .milliseconds(expected))
        #expect(link.ends[1].remoteDetectionTime == link.ends[0].detectionTime)
    }

    @Test(arguments: [(UInt8(1), 0.9), (3, 1)])
    func packetsAreJittered(multiplier: UInt8, most: Double) throws {
        var link = try Self.linkUp(try parameters(300, 300, multiplier))
        let start = link.now
        link.run(for: .seconds(60))
        let times = link.sent(by: 0, since: start).map(\.at)
        let gaps = zip(times.dropFirst(), times).map { ($0 - $1) / .milliseconds(300) }
        #expect(gaps.allSatisfy { (0.75...most).contains($0) })
        #expect(Set(gaps).count > 100 && (gaps.max() ?? 0) - (gaps.min() ?? 0) > 0.12)
        #expect(link.history(of: 0, since: start).isEmpty && link.history(of: 1, since: start).isEmpty)
    }

    @Test func silenceIsFoundExactlyAfterTheDetectionTime() throws {
        var link = try Self.linkUp(try parameters(100, 250), try parameters(200, 100, 4))
        link.isStopped[1] = true
        link.run(for: link.flight)
        let heardAt = try #require(link.heardAt[0])
        link.run(for: .seconds(5))
        let (at, _, change) = try #require(link.changes.last)
        #expect(at - heardAt == .milliseconds(250 * 4))
        #expect(change.to == .down && change.diagnostic == .detectionTimeExpired && change.isPathFailure)
        #expect(change.reason == "no packet for 1.0 seconds (4 × 0.25 seconds)")
        #expect(link.ends[0].neighbor.discriminator == 0)
        #expect(link.sent(by: 0).last?.packet.yourDiscriminator == 0)
    }

    @Test func aProcessThatSleptReadsBeforeItJudges() throws {
        var link = try Self.linkUp()
        let packet = try #require(link.sent(by: 1).last?.packet)
        let late = link.now + .seconds(30)
        #expect(link.ends[0].receive(packet, now: late) == nil)
        #expect(link.ends[0].tick(now: late, using: &link.random).change == nil)
        #expect(link.ends[0].state == .up)
    }

    @Test func whenOneDirectionIsLostBothEndsGoDown() throws {
        var link = try Self.linkUp()
        let start = link.now
        link.loss[1] = 1
        link.run(for: .seconds(20))
        #expect(link.history(of: 0, since: start) == ["Up → Down"])
        #expect(link.history(of: 1, since: start) == ["Up → Down", "Down → Init"])
        #expect(link.ends[0].diagnostic == .detectionTimeExpired && link.ends[1].diagnostic == .neighborSignaledDown)
        let change = try #require(link.changes.first { $0.end == 1 && $0.at > start }?.change)
        #expect(change.isPathFailure && change.reason.hasPrefix("the neighbour"))
        link.loss[1] = 0
        #expect(link.run(for: .milliseconds(1_010)) { $0.areUp })
    }

    @Test func aRestartedNeighbourIsNoticedAtOnceAndComesUpAgain() throws {
        var link = try Self.linkUp()
        let start = link.now
        link.restart(1, discriminator: 99)
        #expect(link.run(for: link.flight * 4) { $0.areUp && $0.now > start })
        #expect(link.history(of: 0, since: start) == ["Up → Down", "Down → Up"])
        let change = try #require(link.changes.first { $0.end == 0 && $0.at > start }?.change)
        #expect(change.reason == "the neighbour has restarted: its discriminator was 22, is 99")
        #expect(link.ends[0].neighbor.discriminator == 99)
    }

    @Test func packetsForAnotherSessionAreDiscarded() throws {
        var link = try Self.linkUp()
        var packet = try #require(link.sent(by: 1).last?.packet)
        packet.yourDiscriminator = 12
        packet.state = .down
        let before = link.ends[0].neighbor
        #expect(link.ends[0].receive(packet, now: link.now) == nil)
        #expect(link.ends[0].state == .up && link.ends[0].neighbor == before)
    }

    @Test func adminDownIsToldAndIsNoFailure() throws {
        var link = try Self.linkUp()
        let start = link.now
        link.note(link.ends[1].disable(now: start), 1)
        link.run(for: .seconds(10))
        #expect(link.history(of: 1, since: start) == ["Up → AdminDown"])
        #expect(link.history(of: 0, since: start) == ["Up → Down"])
        let (at, _, change) = try #require(link.changes.last)
        #expect(at == start + link.flight && !change.isPathFailure && change.diagnostic == .neighborSignaledDown)
        #expect(link.sent(by: 1).last?.packet.diagnostic == .administrativelyDown)
        #expect(link.ends[1].remoteDetectionTime == .seconds(3))
        link.note(link.ends[1].enable(now: link.now), 1)
        #expect(link.run(for: link.flight * 4) { $0.areUp })
    }

    @Test func anEndHeldDownAnswersNothing() throws {
        var link = try Self.linkUp()
        _ = link.ends[0].disable(.pathDown, now: link.now)
        _ = link.ends[0].tick(now: link.now, using: &link.random)
        var packet = try #require(link.sent(by: 1).last?.packet)
        packet.isPoll = true
        #expect(link.ends[0].receive(packet, now: link.now) == nil)
        #expect(link.ends[0].tick(now: link.now, using: &link.random).packets.isEmpty)
        #expect(link.ends[0].state == .adminDown)
    }
}
