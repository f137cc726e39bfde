import CKnetBPF
import Glibc
import KnetCore
import KnetLinux
import ServiceProxyPlugin
import TestSupport
import Testing

@testable import EBPFPlugin

/// Answers and errors of endpoints to clients outside, cut short and distorted.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct BalanceAnswerTests {
    typealias Stage = BalanceStage
    private static let (syn, ack) = (TestPacket.Flags.syn, TestPacket.Flags.ack)

    /// One packet of a known connection with the Service that does not come from the client.
    struct Way {
        let name: String
        let packet: TestPacket
        let role: PathRole
        let link: Int32
        /// Where in it the ends are that say which connection it belongs to, and what they become.
        let place: Int
        let told: [String]
    }

    /// An answer of the endpoint, and an error of it about a request; each once the connection has begun.
    static func ways(_ stage: Stage, isRemote: Bool, _ flags: UInt8?) throws -> [Way] {
        let endpoint = isRemote ? stage.pods.remote : stage.pods.b
        let forth = try #require(try stage.run(stage.packet(flags)))
        // As the endpoint got it.
        var seen = stage.packet(flags)
        seen.destination = endpoint
        seen.source = isRemote ? stage.own : stage.client
        let ports = (stage.family == .v4 ? 34 : 54)
        seen.payload[..<4] = forth[ports..<ports + 4]
        let answer = flags.map { seen.answer.with(flags: $0 | Self.ack) } ?? seen.answer
        let (role, link): (PathRole, Int32) = isRemote ? (.fromNode, stage.uplink) : (.fromPod, stage.bench.links.b)
        let inner = 14 + (stage.family == .v4 ? 20 : 40) + 8
        let (client, frontend) = ("\(stage.client) \(0x1234)", "\(stage.frontend) \(0x35)")
        return [
            Way(
                name: "answer", packet: answer.summed, role: role, link: link, place: 14, told: [frontend, client]),
            Way(
                name: "error", packet: seen.error.summed, role: role, link: link, place: inner,
                told: [client, frontend]),
        ]
    }

    /// - Parameter times: how often each of eight connections begins, once for its answer and once for its error.
    private static func withWays(times: Int = 1, _ body: (Stage, Way) throws -> Void) throws {
        for isRemote in [false, true] {
            try Stage.with({ [isRemote ? $0.remote : $0.b] }) { stage throws in
                let map = try #require(stage.bench.object.maps[.translations])
                for flags in [Self.syn, nil] as [UInt8?] {
                    for number in 0..<2 * times {
                        for key in map.keys { try map.remove(key) }
                        let way = try ways(stage, isRemote: isRemote, flags)[number % 2]
                        let result = try #require(try stage.run(way.packet, way.role, on: way.link), "\(way)")
                        #expect(stage.ends(result, at: way.place) == way.told, "\(way)")
                        try body(stage, way)
                    }
                }
            }
        }
    }

    /// Answers and errors of endpoints that are cut short anywhere, or have less than their transport's header.
    @Test func noShortAnswerIsBalanced() throws {
        try Self.withWays { stage, way in
            let whole = way.packet.bytes
            for length in 0..<whole.count {
                let short = Array(whole.prefix(length))
                guard let result = try stage.bench.run(short, way.role, on: way.link) else { continue }
                #expect(result.verdict == ProgramBench.stack && result.packet == short, "\(way.name): \(length) bytes")
            }
            let least =
                way.name == "error"
                ? way.place - (stage.family == .v4 ? 34 : 54) + 4 + (stage.family == .v4 ? 20 : 40)
                : way.packet.transport == 6 ? 20 : 8
            for length in 0..<least {
                var short = way.packet
                short.payload = Array(way.packet.payload.prefix(length))
                let result = try #require(try stage.bench.run(short.bytes, way.role, on: way.link))
                #expect(
                    result.verdict == ProgramBench.stack && result.packet == short.bytes,
                    "\(way.name): \(length) bytes of transport")
            }
        }
    }

    /// `KNETD_FUZZ_RUNS` counts them. Of what endpoints send only what is of the connection goes back past the stack, from the Service's
    /// address, with checksums as right or as wrong as they were.
    @Test func randomAnswersAreNotMisread() throws {
        let runs = getenv("KNETD_FUZZ_RUNS").flatMap { Int(String(cString: $0)) } ?? 20_000
        var generator = SeededGenerator(seed: 17)
        // What they change of the connection is not to keep the rest from it.
        let each = 250
        var redirected = 0
        try Self.withWays(times: max(runs / 16 / each, 1)) { stage, way in
            for run in 0..<each {
                var bytes = way.packet.bytes
                for _ in 0..<Int.random(in: 0...2, using: &generator) {
                    bytes[Int.random(in: 0..<bytes.count, using: &generator)] = .random(in: 0...255, using: &generator)
                }
                if Int.random(in: 0..<4, using: &generator) == 0 {
                    bytes.removeLast(Int.random(in: 0..<bytes.count - 14, using: &generator))
                }
                guard let result = try stage.bench.run(bytes, way.role, on: way.link) else { continue }
                switch result.verdict {
                case ProgramBench.stack: #expect(result.packet == bytes, "\(way.name) run \(run)")
                case ProgramBench.redirect:
                    redirected += 1
                    // What is changed may be a packet between pods.
                    let ends = stage.ends(bytes)
                    let isForPod =
                        stage.ends(result.packet) == ends
                        && [stage.pods.a, stage.pods.b].contains { ends[1].hasPrefix("\($0) ") }
                    let isKnown =
                        stage.ends(bytes, at: way.place) == stage.ends(way.packet.bytes, at: way.place)
                        && stage.ends(result.packet, at: way.place) == way.told
                    let isSummed =
                        (TestPacket.transportSum(bytes) == 0) == (TestPacket.transportSum(result.packet) == 0)
                    guard isKnown || isForPod, isSummed, result.packet.count == bytes.count else {
                        Issue.record("\(way.name) run \(run): \(bytes) became \(result.packet)")
                        return
                    }
                default: Issue.record("\(way.name) run \(run): verdict \(result.verdict) of \(bytes)")
                }
            }
        }
        #expect(redirected > runs / 20)
    }
}
