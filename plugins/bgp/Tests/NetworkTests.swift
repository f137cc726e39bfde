import KnetCore
import TestSupport
import Testing

@testable import BGPPlugin

/// Two sessions over a network that does them harm for ten minutes.
@Suite struct NetworkTests {
    private static let peace = Duration.seconds(600)
    /// A hold time or a wait that began before the peace, on both sides, and the attempts that follow.
    private static let bound = Duration.seconds(900)

    @Test(arguments: 0..<300) func bothAlwaysEndWithOneConnection(seed: Int) {
        var generator = SeededGenerator(seed: UInt64(seed))
        let isInternal = Bool.random(using: &generator)
        let settings = (0...1).map { side in
            var settings = SessionSettings(
                localAS: isInternal ? 64_512 : 64_512 + UInt32(side),
                identifier: UInt32.random(in: 1...9, using: &generator))
            settings.peerAS = isInternal ? 64_512 : 64_513 - UInt32(side)
            if isInternal { settings.identifier += UInt32(side) * 10 }
            settings.isPassive = side == 1 && seed % 7 == 0
            if Bool.random(using: &generator) { settings.gracefulRestart = nil }
            settings.holdTime = [9, 30, 90][Int.random(in: 0..<3, using: &generator)]
            return settings
        }
        var network = Network(settings, seed: UInt64(seed), peace: Self.peace)
        network.run(until: Self.peace + Self.bound, untilWhole: false)
        #expect(network.fault == nil)
        #expect(network.isWhole, "\(network.sessions.map { ($0.state, $0.connections.map(\.id), $0.lastDown) })")
        let flaps = network.sessions.map(\.flaps)
        network.run(until: network.now + .seconds(600))
        #expect(network.isWhole && network.sessions.map(\.flaps) == flaps && network.fault == nil)
    }

    @Test(arguments: 0..<200) func withoutHarmBothComeUpInSeconds(seed: Int) {
        let settings = (0...1).map { side in
            var settings = SessionSettings(localAS: 64_512 + UInt32(side), identifier: 7)
            settings.peerAS = 64_513 - UInt32(side)
            return settings
        }
        var network = Network(settings, seed: UInt64(seed), peace: .zero)
        network.run(until: .seconds(60), untilWhole: true)
        #expect(network.isWhole && network.fault == nil)
        #expect(network.now < .seconds(30), "\(network.now)")
    }
}
