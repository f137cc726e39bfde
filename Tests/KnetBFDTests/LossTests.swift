import KnetBFD
import TestSupport
import Testing

/// What holds whatever is lost, and whoever stops.
@Suite struct LossTests {
    private static func someParameters(_ random: inout SeededGenerator) throws -> SessionParameters {
        let intervals: [UInt32] = [10, 50, 100, 300, 1_000, 2_500]
        return try parameters(
            intervals[Int.random(in: 0..<6, using: &random)], intervals[Int.random(in: 0..<6, using: &random)],
            UInt8.random(in: 1...5, using: &random))
    }

    /// A link that went through some seconds of loss, changes, restarts and administration.
    private static func battered(seed: UInt64) throws -> SimulatedLink {
        var random = SeededGenerator(seed: seed)
        var link = SimulatedLink(try someParameters(&random), try someParameters(&random), seed: seed)
        link.flight = .microseconds(Int.random(in: 50...20_000, using: &random))
        for step in 0..<12 {
            link.loss = [0, 0].map { _ in [0, 0.1, 0.5, 0.9, 1][Int.random(in: 0..<5, using: &random)] }
            let end = Int.random(in: 0...1, using: &random)
            switch Int.random(in: 0..<6, using: &random) {
            case 0: link.ends[end].change(try someParameters(&random), now: link.now)
            case 1: link.restart(end, discriminator: UInt32(100 + step))
            case 2: link.note(link.ends[end].disable(now: link.now), end)
            case 3: link.isStopped[end].toggle()
            default: break
            }
            link.run(for: .milliseconds(Int.random(in: 0...3_000, using: &random)))
            if Bool.random(using: &random) { link.note(link.ends[end].enable(now: link.now), end) }
        }
        link.loss = [0, 0]
        for end in 0...1 {
            link.isStopped[end] = false
            link.note(link.ends[end].enable(now: link.now), end)
        }
        return link
    }

    @Test(arguments: 1...150) func bothComeUpOnceNothingIsLost(seed: UInt64) throws {
        var link = try Self.battered(seed: seed)
        let slowest = max(link.ends[0].transmitInterval, link.ends[1].transmitInterval, .seconds(1))
        // One packet each way at the slowest pace, then answers at once.
        #expect(link.run(for: slowest * 2 + link.flight * 6) { $0.areUp }, "\(link.ends)")
        link.run(for: slowest * 4 + link.flight * 6)
        #expect(link.areUp, "\(link.changes.suffix(4))")
        let start = link.now
        link.run(for: .seconds(30))
        #expect(link.history(of: 0, since: start).isEmpty && link.history(of: 1, since: start).isEmpty)
        for end in 0...1 {
            #expect(link.ends[end].remoteDetectionTime == link.ends[1 - end].detectionTime)
            #expect(link.sent(by: end, since: start).allSatisfy { !$0.packet.isPoll && !$0.packet.isFinal })
        }
    }

    @Test(arguments: 1...150) func noEndStaysUpWithoutTheOther(seed: UInt64) throws {
        var link = try Self.battered(seed: seed)
        link.run(for: .milliseconds(Int(seed * 37 % 4_000)))
        let stopped = Int(seed % 2)
        link.isStopped[stopped] = true
        link.run(for: link.flight)
        link.run(for: link.ends[1 - stopped].detectionTime)
        #expect(link.ends[1 - stopped].state != .up)
    }

    @Test(arguments: 1...20) func halfOfThePacketsLostIsNeverMoreThanTheDetectionTime(seed: UInt64) throws {
        var link = SimulatedLink(try parameters(100, 100), try parameters(100, 100), seed: seed)
        link.loss = [0.5, 0.5]
        var count = 0
        for _ in 0..<200 {
            // What detection time held just before the end gave up.
            var before = link.ends.map(\.detectionTime)
            let isDown = link.run(for: .milliseconds(50)) { link in
                if link.changes.count > count { return true }
                before = link.ends.map(\.detectionTime)
                return false
            }
            guard isDown else { continue }
            for (at, end, change) in link.changes[count...] where change.diagnostic == .detectionTimeExpired {
                guard change.to == .down else { continue }
                #expect(link.heardAt[end].map { at - $0 } == before[end])
            }
            count = link.changes.count
        }
        #expect(count > 0)
    }

    @Test func fuzzedPacketsNeverBreakASession() throws {
        var random = SeededGenerator(seed: 9)
        var now = Duration.zero
        var session = LivenessSession(localDiscriminator: 11, parameters: try parameters(300, 300), now: now)
        var states: Set<SessionState> = []
        for _ in 0..<200_000 {
            now += .microseconds(Int.random(in: 0...50_000, using: &random))
            if let packet = try? ControlPacket(fuzzed(&random)) { _ = session.receive(packet, now: now) }
            let tick = session.tick(now: now, using: &random)
            states.insert(session.state)
            for packet in tick.packets {
                guard (try? ControlPacket(packet.bytes)) == packet, !(packet.isPoll && packet.isFinal),
                    packet.state == session.state
                else {
                    Issue.record("sent \(packet) in \(session.state)")
                    return
                }
            }
            guard session.nextDeadline.map({ $0 > now }) ?? true else {
                Issue.record("due again at once: \(session)")
                return
            }
        }
        #expect(states == [.down, .initializing, .up])
    }
}
