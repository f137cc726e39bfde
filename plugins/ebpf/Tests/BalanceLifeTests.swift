import CKnetBPF
import Glibc
import KnetCore
import KnetLinux
import ServiceProxyPlugin
import TestSupport
import Testing

@testable import EBPFPlugin

/// How long connections of clients outside are known, and what the daemon forgets.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct BalanceLifeTests {
    private typealias Stage = BalanceStage
    private static let (syn, ack, fin) = (TestPacket.Flags.syn, TestPacket.Flags.ack, TestPacket.Flags.fin)

    /// Sets when a way was last used, in seconds before now.
    private static func age(_ way: TestPacket, _ seconds: Int, _ stage: Stage) throws {
        let map = try #require(stage.bench.object.maps[.translations])
        let key = key(way)
        var value = MapForm.read(try #require(map.value(key))[...], knet_translation.self)
        value.seen &-= UInt64(seconds) * 1_000_000_000
        try map.set(key, withUnsafeBytes(of: value) { Array($0) })
    }

    private static func key(_ way: TestPacket) -> [UInt8] {
        MapForm.address(way.source) + MapForm.address(way.destination) + way.payload[..<4] + [way.transport, 0, 0, 0]
    }

    private static func isKnown(_ way: TestPacket, _ stage: Stage) -> Bool {
        stage.bench.object.maps[.translations]?.value(key(way)) != nil
    }

    /// Who only sends, or only hears, keeps its connection.
    @Test func bothWaysLastAsLongAsOneIsUsed() throws {
        for isRemote in [false, true] {
            try Stage.with({ [isRemote ? $0.remote : $0.b] }) { stage throws in
                for flags in [Self.syn, nil] as [UInt8?] {
                    let way = try BalanceAnswerTests.ways(stage, isRemote: isRemote, flags)[0]
                    let (asks, answers) = (
                        flags == nil ? stage.packet() : stage.packet(Self.ack),
                        flags == nil ? way.packet : way.packet.with(flags: Self.ack).summed
                    )
                    func passes(_ isAnswer: Bool) throws -> Bool {
                        try isAnswer
                            ? stage.run(answers, way.role, on: way.link) != nil : stage.run(asks) != nil
                    }
                    let (forth, back) = (stage.packet(flags), answers)
                    for isAnswer in [false, true] {
                        // Of two times two minutes one is more than three.
                        for _ in 0..<2 {
                            for end in [forth, back] { try Self.age(end, 120, stage) }
                            #expect(try passes(isAnswer))
                        }
                        try Self.age(isAnswer ? back : forth, 2, stage)
                        #expect(try passes(!isAnswer) && passes(isAnswer))
                        // What was forgotten of it follows from the other.
                        let map = try #require(stage.bench.object.maps[.translations])
                        let (lost, held) = isAnswer ? (forth, back) : (back, forth)
                        let before = try #require(map.value(Self.key(lost)))
                        try map.remove(Self.key(lost))
                        try Self.age(held, 2, stage)
                        #expect(try passes(isAnswer))
                        let after = MapForm.read(try #require(map.value(Self.key(lost)))[...], knet_translation.self)
                        let known = MapForm.read(before[...], knet_translation.self)
                        #expect(after.link == known.link && after.kind == known.kind && after.ports == known.ports)
                        #expect(try passes(!isAnswer))
                    }
                }
            }
        }
    }

    /// Nobody looks whether its receiver took a reset: what goes on was not cut off.
    @Test func aStreamThatGoesOnWasNotReset() throws {
        try Stage.with { stage throws in
            let map = try #require(stage.bench.object.maps[.translations])
            func ended() throws -> [UInt32] {
                try map.keys.map { MapForm.read(try #require(map.value($0))[...], knet_translation.self).ended }
            }
            #expect(try stage.run(stage.packet(Self.syn)) != nil)
            #expect(try stage.run(stage.packet(TestPacket.Flags.rst)) != nil)
            #expect(try ended() == [2, 2])
            #expect(try stage.run(stage.packet(Self.ack)) != nil)
            #expect(try ended() == [0, 0])
            #expect(try stage.run(stage.packet(Self.fin | Self.ack)) != nil)
            #expect(try stage.run(stage.packet(TestPacket.Flags.rst)) != nil)
            #expect(try stage.run(stage.packet(Self.ack)) != nil)
            #expect(try ended().sorted() == [0, 1] || ended().sorted() == [1, 2], "who has ended it has")
        }
    }

    // MARK: What the daemon forgets

    private static func maps(_ stage: Stage) throws -> FlowMaps {
        let maps = stage.bench.object.maps
        return FlowMaps(
            flows: try #require(maps[.flows]), translations: try #require(maps[.translations]),
            endpoints: try #require(maps[.endpoints]))
    }

    @Test func onlyWhatIsOverIsForgotten() throws {
        try Stage.with { stage throws in
            let maps = try Self.maps(stage)
            let datagram = stage.packet()
            #expect(try stage.run(datagram) != nil)
            var answer = TestPacket(source: stage.pods.b, destination: stage.client)
            answer.payload[..<4] = [0x1B, 0x5F, 0x12, 0x34]
            try Self.age(datagram, 200, stage)
            #expect(maps.forgetWhatIsOver().isEmpty && Self.isKnown(datagram, stage), "it was answered since")
            try Self.age(answer, 200, stage)
            #expect(maps.forgetWhatIsOver().map(\.kind) == [KNET_EVENT_ENDED.rawValue])
            #expect(!Self.isKnown(datagram, stage) && !Self.isKnown(answer, stage))

            // A stream of which one end has said so waits for the other.
            let (open, end) = (stage.packet(Self.syn), stage.packet(Self.fin | Self.ack))
            answer = answer.with(flags: Self.fin | Self.ack)
            #expect(try stage.run(open) != nil && stage.run(end) != nil)
            for way in [open, answer] { try Self.age(way, 3600, stage) }
            _ = maps.forgetWhatIsOver()
            #expect(Self.isKnown(open, stage) && Self.isKnown(answer, stage))
            #expect(try stage.run(answer.summed, .fromPod, on: stage.bench.links.b) != nil)
            for way in [open, answer] { try Self.age(way, 5, stage) }
            _ = maps.forgetWhatIsOver()
            #expect(Self.isKnown(open, stage), "something may be under way")
            for way in [open, answer] { try Self.age(way, 11, stage) }
            #expect(maps.forgetWhatIsOver().isEmpty, "the programs told of it")
            #expect(!Self.isKnown(open, stage) && !Self.isKnown(answer, stage))
        }
    }

    /// With direct return the other end does not come by here.
    @Test func aHalfClosedStreamThatIsAnsweredElsewhereIsKept() throws {
        try Stage.with({ [$0.remote] }, direct: true) { stage throws in
            let maps = try Self.maps(stage)
            let (open, end) = (stage.packet(Self.syn), stage.packet(Self.fin | Self.ack))
            #expect(try stage.run(open) != nil && stage.run(end) != nil)
            try Self.age(open, 60, stage)
            _ = maps.forgetWhatIsOver()
            #expect(Self.isKnown(open, stage))
            try Self.age(open, 61, stage)
            _ = maps.forgetWhatIsOver()
            #expect(!Self.isKnown(open, stage))
        }
    }

    /// Its own pod's, and those of other nodes with it.
    @Test func whatWasOfAPodThatIsGoneIsForgotten() throws {
        try Stage.with { stage throws in
            let maps = try Self.maps(stage)
            let open = stage.packet(Self.syn)
            let stream = TestPacket(source: stage.pods.a, destination: stage.pods.b).with(flags: Self.syn)
            let other = TestPacket(source: stage.pods.a, destination: stage.pods.remote).with(flags: Self.syn)
            for packet in [stream, other] {
                #expect(try stage.bench.run(packet.bytes)?.verdict == ProgramBench.redirect)
            }
            #expect(try stage.run(open) != nil)
            #expect(maps.forgetWhatIsOver().isEmpty && maps.flows.keys.count == 2)
            try maps.endpoints.remove(MapForm.address(stage.pods.b))
            for family in IPFamily.allCases where family != stage.family {
                try maps.endpoints.remove(MapForm.address(try #require(ProgramBench.pods[family]?.b)))
            }
            let told = maps.forgetWhatIsOver()
            #expect(told.count == 2 && maps.flows.keys.count == 1, "\(told)")
            #expect(maps.translations.keys.isEmpty)
        }
    }
}
