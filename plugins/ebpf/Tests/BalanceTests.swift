import CKnetBPF
import Glibc
import KnetCore
import KnetLinux
import ServiceProxyPlugin
import TestSupport
import Testing

@testable import EBPFPlugin

/// Services for clients outside, packet by packet: who gets which endpoint, and how addresses are translated both ways.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct BalanceTests {
    private typealias Stage = BalanceStage
    private static let (syn, ack, fin) = (TestPacket.Flags.syn, TestPacket.Flags.ack, TestPacket.Flags.fin)

    @Test func aConnectionGoesToAPodHereAndItsAnswersBack() throws {
        try Stage.with { stage throws in
            for flags in [Self.syn, nil] as [UInt8?] {
                let forth = try #require(try stage.run(stage.packet(flags)))
                #expect(stage.ends(forth) == ["\(stage.client) \(0x1234)", "\(stage.pods.b) 7007"])
                #expect(Array(forth[..<12]) == ProgramBench.podMAC.bytes + ProgramBench.hostMAC.bytes)
                var answer = TestPacket(source: stage.pods.b, destination: stage.client)
                answer.payload[..<4] = [0x1B, 0x5F, 0x12, 0x34]
                answer = (flags == nil ? answer : answer.with(flags: Self.syn | Self.ack)).summed
                let back = try #require(try stage.run(answer, .fromPod, on: stage.bench.links.b))
                #expect(stage.ends(back) == ["\(stage.frontend) \(0x35)", "\(stage.client) \(0x1234)"])
                #expect(Array(back[..<6]) == [2, 0, 0, 0, 0, 0x99])
                // What follows takes the same way; what has not begun does not.
                if flags != nil {
                    #expect(try stage.run(stage.packet(Self.ack)) != nil)
                    #expect(try stage.run(stage.packet(Self.ack, port: 0x35)) == nil)
                }
                answer.payload[3] += 1
                #expect(try stage.run(answer.summed, .fromPod, on: stage.bench.links.b) == nil)
            }
            #expect(stage.bench.count(.toEndpoint) == 3 && stage.bench.count(.toClient) == 2)
        }
    }

    /// From an address that no pod has: else its node would answer the client itself.
    @Test func aConnectionGoesToAnotherNodesPodAndItsAnswersBack() throws {
        try Stage.with({ [$0.remote] }) { stage throws in
            let remote = stage.pods.remote
            var sources: Set<String> = []
            for port in 0..<50 as Range<UInt8> {
                let forth = try #require(try stage.run(stage.packet(Self.syn, port: port)))
                let ends = stage.ends(forth)
                #expect(ends[1] == "\(remote) 7007")
                let source = ends[0].split(separator: " ")
                #expect(source.first == "\(stage.own)")
                let own = try #require(source.last.flatMap { UInt16($0) })
                #expect((1024..<32_768).contains(own))
                sources.insert(ends[0])
                var answer = TestPacket(source: remote, destination: stage.own)
                answer.payload[..<4] = [0x1B, 0x5F, UInt8(own >> 8), UInt8(own & 255)]
                let back = try #require(
                    try stage.run(answer.with(flags: Self.syn | Self.ack).summed, .fromNode))
                #expect(stage.ends(back) == ["\(stage.frontend) \(0x35)", "\(stage.client) \(0x1200 + Int(port))"])
            }
            #expect(sources.count == 50, "each connection has a port of its own")
        }
    }

    /// The stack serves what is not in the maps, and goes on with what it tracks.
    @Test func whatIsNotInTheMapsIsTheStacks() throws {
        try Stage.with { stage throws in
            var packet = stage.packet(Self.syn)
            packet.payload[3] += 1
            #expect(try stage.run(packet.summed) == nil)
            packet = stage.packet(Self.syn)
            packet.destination = stage.router
            #expect(try stage.run(packet.summed) == nil)
            packet = stage.packet(Self.syn)
            packet.lifetime = 1
            #expect(try stage.run(packet) == nil)
            #expect(try stage.run(stage.packet(Self.syn), .fromNode) == nil, "other nodes have no clients outside")
            let maps = stage.bench.object.maps
            try maps[.settings]?.set([0, 0, 0, 0], MapForm.settings(.init(generation: 1)))
            #expect(try stage.run(stage.packet(Self.syn)) == nil)
        }
    }

    @Test func errorsAreTranslatedWithWhatTheyAreAbout() throws {
        try Stage.with { stage throws in
            for flags in [Self.syn, nil] as [UInt8?] {
                let packet = stage.packet(flags)
                _ = try #require(try stage.run(packet))
                var answer = TestPacket(source: stage.pods.b, destination: stage.client)
                answer.payload[..<4] = [0x1B, 0x5F, 0x12, 0x34]
                // A router's, about an answer that the client was sent.
                var told = answer
                told.source = stage.frontend
                told.payload[..<2] = [0, 0x35]
                if flags != nil { told = told.with(flags: Self.ack) }
                let router = try #require(try stage.run(told.error(of: stage.router).summed))
                let inner = stage.family == .v4 ? 42 : 62
                #expect(stage.ends(router)[0].hasPrefix("\(stage.router) "))
                #expect(stage.ends(router)[1].hasPrefix("\(stage.pods.b) "))
                #expect(stage.ends(router, at: inner) == ["\(stage.pods.b) 7007", "\(stage.client) \(0x1234)"])
                if stage.family == .v4 { #expect(TestPacket.checksum(router[inner..<inner + 20]) == 0) }
                // The pod's, about what it was sent.
                var seen = packet
                seen.destination = stage.pods.b
                seen.payload[2..<4] = [0x1B, 0x5F]
                let pod = try #require(try stage.run(seen.error.summed, .fromPod, on: stage.bench.links.b))
                #expect(stage.ends(pod)[0].hasPrefix("\(stage.frontend) "))
                #expect(stage.ends(pod)[1].hasPrefix("\(stage.client) "))
                #expect(stage.ends(pod, at: inner) == ["\(stage.client) \(0x1234)", "\(stage.frontend) \(0x35)"])
                if stage.family == .v4 { #expect(TestPacket.checksum(pod[inner..<inner + 20]) == 0) }
            }
            // About nothing that is known.
            var other = stage.packet(Self.syn, port: 0x77)
            other.source = stage.frontend
            other.destination = stage.client
            #expect(try stage.run(other.error(of: stage.router).summed) == nil)
        }
    }

    /// The same client and port at two of the Service's addresses have an endpoint each knows apart.
    @Test func twoAddressesOfOneEndpointAreKeptApart() throws {
        try Stage.with { stage throws in
            let maps = stage.bench.object.maps
            let frontends = FrontendMaps(try #require(maps[.outside]), slots: try #require(maps[.tables]))
            let other = PlainFrontend.ID(transport: 6, address: stage.router, port: 0x35)
            let slots = (0..<64).map { PlainFrontend.Slot(number: $0, address: stage.pods.b, port: 7007) }
            try frontends.set(
                PlainFrontend(id: other, size: 64, slots: slots), replacing: nil,
                SocketForm.number(64) + SocketForm.number(1))
            let first = try #require(try stage.run(stage.packet(Self.syn)))
            var packet = stage.packet(Self.syn)
            packet.destination = stage.router
            let second = try #require(try stage.run(packet.summed))
            #expect(stage.ends(first)[0] == "\(stage.client) \(0x1234)")
            #expect(stage.ends(second)[0].hasPrefix("\(stage.own) "))
            #expect(stage.ends(first)[1] == stage.ends(second)[1])
            var answer = TestPacket(source: stage.pods.b, destination: stage.own)
            let port = try #require(stage.ends(second)[0].split(separator: " ").last.flatMap { UInt16($0) })
            answer.payload[..<4] = [0x1B, 0x5F, UInt8(port >> 8), UInt8(port & 255)]
            let back = try #require(
                try stage.run(answer.with(flags: Self.syn | Self.ack).summed, .fromPod, on: stage.bench.links.b))
            #expect(stage.ends(back) == ["\(stage.router) \(0x35)", "\(stage.client) \(0x1234)"])
        }
    }

    /// What is over must not meet what the stack serves after it.
    @Test func aConnectionThatIsOverIsForgottenByTheNext() throws {
        try Stage.with { stage throws in
            #expect(try stage.run(stage.packet(Self.syn)) != nil)
            #expect(try stage.run(stage.packet(Self.fin | Self.ack)) != nil)
            #expect(try stage.run(stage.packet(Self.ack)) != nil)
            // The Service is the rules' now.
            for key in stage.bench.object.maps[.outside]?.keys ?? [] {
                try stage.bench.object.maps[.outside]?.remove(key)
            }
            #expect(try stage.run(stage.packet(Self.syn)) == nil)
            #expect(try stage.run(stage.packet(Self.ack)) == nil)
            #expect(stage.bench.object.maps[.translations]?.keys.isEmpty == true)
        }
    }

    /// Who is answered in pieces is the stack's from then on.
    @Test func datagramsInPiecesAreLeftToTheStack() throws {
        try Stage.with { stage throws in
            #expect(try stage.run(stage.packet()) != nil)
            var answer = TestPacket(source: stage.pods.b, destination: stage.client)
            answer.payload[..<4] = [0x1B, 0x5F, 0x12, 0x34]
            #expect(try stage.run(answer.firstPiece, .fromPod, on: stage.bench.links.b) == nil)
            #expect(try stage.run(answer.summed, .fromPod, on: stage.bench.links.b) == nil)
            #expect(try stage.run(stage.packet()) == nil)
            #expect(try stage.run(stage.packet(port: 0x35)) != nil)
        }
    }

    /// A client that sends some in pieces has one endpoint for all: the rules'.
    @Test func clientsWhoseDatagramsAreCutUpAreLeftToTheStack() throws {
        for isRemote in [false, true] {
            try Stage.with({ [isRemote ? $0.remote : $0.b] }) { stage throws in
                let small = stage.packet()
                #expect(try stage.run(small) != nil)
                #expect(try stage.run(small.firstPiece, .fromPod, on: stage.bench.links.a) == nil)
                #expect(try stage.run(small) != nil, "a pod does not speak for a client")
                #expect(try stage.run(small.firstPiece) == nil)
                #expect(try stage.run(small) == nil)
                // One that may not be cut is told so, and its sender cuts it or sends less.
                var large = stage.packet(port: 0x35)
                large.payload += [UInt8](repeating: 7, count: 1500)
                for fragment in [0x4000, 0] as [UInt16] {
                    large.fragment = fragment
                    #expect(try stage.run(stage.packet(port: 0x35)) != nil)
                    #expect(try stage.run(large.summed) == nil)
                }
                #expect(try (stage.run(stage.packet(port: 0x35)) == nil) == (stage.family == .v4))
            }
        }
    }

    /// The server has said that it is over, and its client is no more: what begins then has nothing to do with it.
    @Test func aConnectionThatTheServerEndedIsForgottenByTheNext() throws {
        try Stage.with { stage throws in
            func answer(_ flags: UInt8) throws -> [UInt8]? {
                var answer = TestPacket(source: stage.pods.b, destination: stage.client)
                answer.payload[..<4] = [0x1B, 0x5F, 0x12, 0x34]
                return try stage.run(answer.with(flags: flags).summed, .fromPod, on: stage.bench.links.b)
            }
            #expect(try stage.run(stage.packet(Self.syn)) != nil)
            #expect(try answer(Self.syn | Self.ack) != nil)
            #expect(try answer(Self.fin | Self.ack) != nil)
            #expect(try stage.run(stage.packet(Self.syn)) != nil)
            #expect(try answer(Self.syn | Self.ack) != nil)
            #expect(try stage.run(stage.packet(Self.ack)) != nil)
        }
    }

    @Test func policiesAreAskedForTheEndpoint() throws {
        try Stage.with(policed: true) { stage throws in
            #expect(try stage.run(stage.packet(Self.syn)) == nil)
            let question = VerdictExchange.Question(
                source: stage.client, destination: stage.pods.b, transport: 6, port: 7007, isLocal: (false, true))
            let key = MapForm.question(question)
            #expect(stage.bench.object.maps[.verdicts]?.keys == [key])
            let links = (UInt32(0), UInt32(stage.bench.links.b))
            try stage.bench.object.maps[.verdicts]?.set(key, MapForm.verdict(KNET_LEFT, links))
            #expect(try stage.run(stage.packet(Self.syn)) == nil)
            try stage.bench.object.maps[.verdicts]?.set(key, MapForm.verdict(KNET_ADMITTED, links))
            #expect(try stage.run(stage.packet(Self.syn)) != nil)
        }
    }

    /// The same client has the same endpoint whenever it comes.
    @Test func clientsAreSpreadAndKeepTheirEndpoint() throws {
        try Stage.with({ [$0.a, $0.b] }) { stage throws in
            let pods = stage.pods
            do {
                var first: [UInt8: String] = [:]
                for port in 0..<200 as Range<UInt8> {
                    first[port] = try stage.ends(#require(try stage.run(stage.packet(port: port))))[1]
                }
                #expect(Set(first.values).count == 2)
                #expect((60...140).contains(first.values.count { $0.hasPrefix("\(pods.a) ") }), "\(first.values.count)")
                for key in stage.bench.object.maps[.translations]?.keys ?? [] {
                    try stage.bench.object.maps[.translations]?.remove(key)
                }
                for port in 0..<200 as Range<UInt8> {
                    #expect(try stage.ends(#require(try stage.run(stage.packet(port: port))))[1] == first[port])
                }
            }
        }
    }

    /// Another node's endpoint answers by itself, from the Service's address: what it gets is as the client sent it.
    @Test func withDirectReturnTheEndpointsNodeTranslates() throws {
        do {
            try Stage.with({ [$0.remote] }, direct: true) { stage throws in
                let forth = try #require(try stage.run(stage.packet(Self.syn)))
                #expect(stage.ends(forth) == ["\(stage.client) \(0x1234)", "\(stage.frontend) \(0x35)"])
                #expect(Array(forth[..<6]) == [2, 0, 0, 0, 0, 0x99])
                #expect(try stage.run(stage.packet(Self.ack)) != nil)
                #expect(try stage.run(stage.packet(Self.syn, port: 9), .fromNode) == nil, "it is not sent on twice")
            }
            try Stage.with(direct: true) { stage throws in
                let pods = stage.pods
                let forth = try #require(try stage.run(stage.packet(Self.syn), .fromNode))
                #expect(stage.ends(forth) == ["\(stage.client) \(0x1234)", "\(pods.b) 7007"])
                var answer = TestPacket(source: pods.b, destination: stage.client)
                answer.payload[..<4] = [0x1B, 0x5F, 0x12, 0x34]
                let back = try #require(
                    try stage.run(
                        answer.with(flags: Self.syn | Self.ack).summed, .fromPod, on: stage.bench.links.b))
                #expect(stage.ends(back) == ["\(stage.frontend) \(0x35)", "\(stage.client) \(0x1234)"])
            }
        }
    }

    /// A packet to a Service that is cut short anywhere, and says more of its length than it has.
    @Test func noTruncatedPacketIsBalanced() throws {
        try Stage.with { stage throws in
            for flags in [Self.syn, nil] as [UInt8?] {
                let whole = stage.packet(flags).bytes
                for length in 0..<whole.count {
                    let short = Array(whole.prefix(length))
                    guard let result = try stage.bench.run(short, .fromOutside, on: stage.uplink) else {
                        #expect(length < ProgramBench.leastPacket(stage.family))
                        continue
                    }
                    #expect(result.verdict == ProgramBench.stack && result.packet == short, "\(length) bytes")
                }
            }
        }
    }

    /// Packets that are whole by their lengths, but have less than their transport's header, or errors less of what they are about than
    /// its ports.
    @Test func noShortTransportIsBalanced() throws {
        try Stage.with { stage throws in
            for (flags, least) in [(Self.syn, 20), (nil, 8)] as [(UInt8?, Int)] {
                let packet = stage.packet(flags)
                _ = try #require(try stage.run(packet))
                var told = packet.answer
                told.source = stage.frontend
                let error = told.error(of: stage.router).summed
                _ = try #require(try stage.run(error))
                let inner = 8 + (stage.family == .v4 ? 20 : 40)
                for (whole, least) in [(packet, least), (error, inner + 4)] {
                    for length in 0..<least {
                        var short = whole
                        short.payload = Array(whole.payload.prefix(length))
                        let result = try #require(try stage.bench.run(short.bytes, .fromOutside, on: stage.uplink))
                        #expect(result.verdict == ProgramBench.stack && result.packet == short.bytes, "\(length) bytes")
                    }
                }
            }
        }
    }

    @Test func fragmentsOptionsAndTagsAreTheStacks() throws {
        try Stage.with { stage throws in
            var tagged = stage.packet(Self.syn)
            tagged.vlan = true
            #expect(try stage.bench.run(tagged.bytes, .fromOutside, on: stage.uplink)?.verdict == ProgramBench.stack)
            guard stage.family == .v4 else { return }
            for fragment in [0x2000, 0x0001, 0x2001, 0x8000] as [UInt16] {
                var part = stage.packet(Self.syn)
                part.fragment = fragment
                #expect(try stage.run(part) == nil)
            }
            var options = stage.packet(Self.syn)
            options.options = [7, 7, 4, 0, 0, 0, 0, 0]
            #expect(try stage.run(options) == nil)
        }
    }

    /// `KNETD_FUZZ_RUNS` counts them. What is redirected is what an independent reading finds to be of a Service, and its checksums are as
    /// right or as wrong as they were. In half of the runs the programs are catching up: what is dropped then is of a Service too.
    @Test func randomPacketsAreNotMisread() throws {
        let runs = getenv("KNETD_FUZZ_RUNS").flatMap { Int(String(cString: $0)) } ?? 20_000
        var generator = SeededGenerator(seed: 16)
        try Stage.with { stage throws in
            var redirected = 0
            var dropped = 0
            for run in 0..<runs / 2 {
                let isCatchingUp = run >= runs / 4
                if run == runs / 4 { try stage.setCatchingUp(true) }
                let flags: UInt8? =
                    Bool.random(using: &generator) ? [1, 2, 4, 16, 18].randomElement(using: &generator) : nil
                var packet = stage.packet(flags, port: .random(in: 0...255, using: &generator))
                if Int.random(in: 0..<4, using: &generator) == 0 { packet = packet.error(of: stage.router).summed }
                var bytes = packet.bytes
                for _ in 0..<Int.random(in: 0...2, using: &generator) {
                    bytes[Int.random(in: 0..<bytes.count, using: &generator)] = .random(in: 0...255, using: &generator)
                }
                if Int.random(in: 0..<4, using: &generator) == 0 {
                    bytes.removeLast(Int.random(in: 0..<bytes.count - 14, using: &generator))
                }
                guard let result = try stage.bench.run(bytes, .fromOutside, on: stage.uplink) else { continue }
                switch result.verdict {
                case ProgramBench.stack: #expect(result.packet == bytes, "run \(run)")
                case ProgramBench.redirect:
                    redirected += 1
                    guard stage.isForService(bytes) else {
                        Issue.record("run \(run): \(bytes)")
                        return
                    }
                    #expect(result.packet.count == bytes.count)
                    #expect(
                        (TestPacket.transportSum(bytes) == 0) == (TestPacket.transportSum(result.packet) == 0),
                        "run \(run): \(bytes) became \(result.packet)")
                case ProgramBench.shot where isCatchingUp && stage.isForService(bytes):
                    dropped += 1
                    #expect(result.packet == bytes, "run \(run)")
                default:
                    Issue.record("run \(run): verdict \(result.verdict) of \(bytes)")
                    return
                }
            }
            #expect(redirected > runs / 20 && dropped > runs / 200, "\(redirected), \(dropped)")
        }
    }
}
