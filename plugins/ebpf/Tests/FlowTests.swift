import CKnetBPF
import KnetCore
import TestSupport
import Testing

@testable import EBPFPlugin

/// Which connections go past the stack where policies are asked.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct FlowTests {
    private static let (syn, ack, fin, rst) = (
        TestPacket.Flags.syn, TestPacket.Flags.ack, TestPacket.Flags.fin, TestPacket.Flags.rst
    )

    /// A bench with policies, of which nothing is answered yet, and a packet from pod a to pod b.
    private static func withPolicies(_ body: (ProgramBench, TestPacket) throws -> Void) throws {
        for family in IPFamily.allCases {
            let pods = try #require(ProgramBench.pods[family])
            try ProgramBench.with { bench in
                try begin(1, bench)
                try body(bench, TestPacket(source: pods.a, destination: pods.b))
            }
        }
    }

    private static func begin(_ generation: UInt32, _ bench: ProgramBench) throws {
        try bench.object.maps[.settings]?.set(
            [0, 0, 0, 0],
            MapForm.settings(.init(wanted: .init(isPoliced: true, isTold: true), generation: generation)))
    }

    /// Whether it goes past the stack.
    private static func passes(_ packet: TestPacket, _ bench: ProgramBench) throws -> Bool {
        let isOfB = ProgramBench.pods.values.contains { $0.b == packet.source }
        let isRemote = ProgramBench.pods.values.contains { $0.remote == packet.source }
        let result = try bench.run(
            packet.bytes, isRemote ? .fromNode : .fromPod, on: isOfB ? bench.links.b : bench.links.a)
        return result?.verdict == ProgramBench.redirect
    }

    private static func answer(
        _ packet: TestPacket, _ answer: knet_answer, _ bench: ProgramBench, from: Int32? = nil, to: Int32? = nil
    ) throws {
        let hasPorts = [6, 17].contains(packet.transport)
        let question = VerdictExchange.Question(
            source: packet.source, destination: packet.destination, transport: packet.transport,
            port: hasPorts ? UInt16(packet.payload[2]) << 8 | UInt16(packet.payload[3]) : 0,
            isLocal: (true, true))
        try bench.object.maps[.verdicts]?.set(
            MapForm.question(question),
            MapForm.verdict(answer, (UInt32(from ?? bench.links.a), UInt32(to ?? bench.links.b))))
    }

    @Test func whoMayBeginIsAskedAndAnswersGoBack() throws {
        try Self.withPolicies { bench, packet in
            let open = packet.with(flags: Self.syn)
            #expect(try !Self.passes(open, bench))
            #expect(try !Self.passes(open, bench))
            #expect(bench.count(.policy) == 2)
            #expect(bench.object.maps[.verdicts]?.keys.count == 1, "it is asked once")
            // Neither answers nor what lies between is let through before.
            let accept = open.answer.with(flags: Self.syn | Self.ack)
            #expect(try !Self.passes(accept, bench))
            #expect(try !Self.passes(packet.with(flags: Self.ack), bench))
            try Self.answer(open, KNET_LEFT, bench)
            #expect(try !Self.passes(open, bench))
            try Self.answer(open, KNET_ADMITTED, bench)
            #expect(try !Self.passes(accept, bench), "nobody has begun yet")
            #expect(try Self.passes(open, bench))
            #expect(try Self.passes(accept, bench))
            for flags in [Self.ack, Self.ack | Self.fin, Self.ack] {
                #expect(try Self.passes(packet.with(flags: flags), bench))
                #expect(try Self.passes(open.answer.with(flags: flags), bench))
            }
            // Another port of either.
            var other = open
            other.payload[3] += 1
            #expect(try !Self.passes(other, bench))
            other = open
            other.payload[1] += 1
            #expect(try !Self.passes(other.with(flags: Self.ack), bench))
            #expect(try Self.passes(other, bench), "the same port of the receiver was admitted")
            // The other way around nothing was.
            #expect(try !Self.passes(open.answer.with(flags: Self.syn), bench))
        }
    }

    @Test func datagramsAreAnsweredToWhereTheyCameFrom() throws {
        try Self.withPolicies { bench, packet in
            #expect(try !Self.passes(packet.answer, bench))
            try Self.answer(packet, KNET_ADMITTED, bench)
            #expect(try !Self.passes(packet.answer, bench), "nobody has asked yet")
            #expect(try Self.passes(packet, bench))
            #expect(try Self.passes(packet.answer, bench))
            var other = packet.answer
            other.payload[3] += 1
            #expect(try !Self.passes(other, bench))
        }
    }

    @Test func echoesAreAnswered() throws {
        try Self.withPolicies { bench, packet in
            var echo = packet
            let isIPv4 = packet.source.family == .v4
            echo.transport = isIPv4 ? 1 : 58
            echo.payload = [isIPv4 ? 8 : 128, 0, 0, 0, 0, 7, 0, 1]
            var answer = TestPacket(source: echo.destination, destination: echo.source)
            answer.transport = echo.transport
            answer.payload = [isIPv4 ? 0 : 129, 0, 0, 0, 0, 7, 0, 1]
            #expect(try !Self.passes(echo, bench))
            #expect(try !Self.passes(answer, bench))
            try Self.answer(echo, KNET_ADMITTED, bench)
            #expect(try Self.passes(echo, bench))
            #expect(try Self.passes(answer, bench))
            answer.payload[5] = 8
            #expect(try !Self.passes(answer, bench))
        }
    }

    /// Whoever gets the address next inherits neither answers nor connections.
    @Test func anotherPodWithTheAddressIsAskedAboutAnew() throws {
        try Self.withPolicies { bench, packet in
            let open = packet.with(flags: Self.syn)
            try Self.answer(open, KNET_ADMITTED, bench)
            #expect(try Self.passes(open, bench))
            let link = try ProgramBench.makeLink("knet-c")
            try bench.object.maps[.endpoints]?.set(
                MapForm.address(packet.destination),
                MapForm.endpoint(link: link, podMAC: ProgramBench.podMAC, hostMAC: ProgramBench.hostMAC))
            #expect(try !Self.passes(packet.with(flags: Self.ack), bench))
            #expect(try !Self.passes(open, bench))
            #expect(bench.count(.policy) == 1)
        }
    }

    /// Streams look for their pods again when told to, and only then.
    @Test func streamsKnowTheirPodsUntilTheseChange() throws {
        try Self.withPolicies { bench, packet in
            let (open, data) = (packet.with(flags: Self.syn), packet.with(flags: Self.ack))
            try Self.answer(open, KNET_ADMITTED, bench)
            for sent in [open, data, data, open.answer.with(flags: Self.ack)] {
                #expect(try Self.passes(sent, bench))
            }
            func addresses() throws -> [UInt8] {
                Array(try #require(try bench.run(data.bytes)).packet.prefix(12))
            }
            let first = ProgramBench.podMAC.bytes + ProgramBench.hostMAC.bytes
            #expect(try addresses() == first)
            let (endpoints, key) = (try #require(bench.object.maps[.endpoints]), MapForm.address(packet.destination))
            let other = MACAddress(number: 0x0200_0000_00C1)
            try endpoints.set(
                key, MapForm.endpoint(link: bench.links.b, podMAC: other, hostMAC: ProgramBench.hostMAC))
            #expect(try addresses() == first)
            try Self.begin(2, bench)
            for _ in 0..<2 { #expect(try addresses() == other.bytes + ProgramBench.hostMAC.bytes) }

            // Of the sender as of the receiver; a sender was looked at when the stream began.
            let answer = open.answer.with(flags: Self.ack)
            for (number, gone) in [packet.destination, packet.source].enumerated() {
                let held = try #require(endpoints.value(MapForm.address(gone)))
                try endpoints.remove(MapForm.address(gone))
                #expect(try Self.passes(data, bench) && Self.passes(answer, bench))
                try Self.begin(UInt32(3 + 2 * number), bench)
                #expect(try Self.passes(data, bench) == (gone == packet.source))
                #expect(try Self.passes(answer, bench) == (gone == packet.destination))
                try endpoints.set(MapForm.address(gone), held)
                try Self.begin(UInt32(4 + 2 * number), bench)
                #expect(try Self.passes(data, bench) && Self.passes(answer, bench))
            }
            // Nothing is known from an end where it is not.
            let strange = try bench.run(data.bytes, on: bench.links.b)
            #expect(strange?.verdict != ProgramBench.redirect)
        }
    }

    @Test func aConnectionThatIsOverIsNoneForTheNext() throws {
        try Self.withPolicies { bench, packet in
            let open = packet.with(flags: Self.syn)
            for ending in [
                [packet.with(flags: Self.fin | Self.ack), packet.answer.with(flags: Self.fin | Self.ack)],
                [packet.answer.with(flags: Self.rst)],
            ] {
                try Self.answer(open, KNET_ADMITTED, bench)
                #expect(try Self.passes(open, bench))
                try Self.answer(open, KNET_LEFT, bench)
                #expect(try Self.passes(packet.with(flags: Self.ack), bench), "connections under way go on")
                #expect(try !Self.passes(open, bench), "another one is asked about")
                for end in ending { #expect(try Self.passes(end, bench)) }
                #expect(try Self.passes(packet.with(flags: Self.ack), bench), "what is still under way")
                #expect(try !Self.passes(open, bench))
            }
        }
    }

    @Test func errorsAreOfTheirConnections() throws {
        try Self.withPolicies { bench, packet in
            for first in [packet, packet.with(flags: Self.syn)] {
                #expect(try !Self.passes(first.error, bench))
                try Self.answer(first, KNET_ADMITTED, bench)
                #expect(try !Self.passes(first.error, bench))
                #expect(try Self.passes(first, bench))
                #expect(try Self.passes(first.error, bench))
                #expect(try !Self.passes(first.answer.error.answer, bench), "not of who sent it")
                var other = first
                other.payload[1] += 1
                #expect(try !Self.passes(other.error, bench))
                for length in 0..<first.error.payload.count {
                    var short = first.error
                    short.payload = Array(short.payload.prefix(length))
                    let isWhole = length >= 8 + (packet.source.family == .v4 ? 20 : 40) + 4
                    #expect(try Self.passes(short, bench) == isWhole, "\(length) bytes")
                }
            }
        }
    }

    /// Who was asked may not ask by the same number; who was not answered is asked about again.
    @Test func nobodyUsesAnotherOnesAdmission() throws {
        try Self.withPolicies { bench, packet in
            try Self.answer(packet, KNET_ADMITTED, bench)
            #expect(try Self.passes(packet, bench))
            try Self.answer(packet, KNET_LEFT, bench)
            #expect(try !Self.passes(packet, bench), "no answer was seen")
            try Self.answer(packet, KNET_ADMITTED, bench)
            #expect(try Self.passes(packet, bench) && Self.passes(packet.answer, bench))
            try Self.answer(packet, KNET_LEFT, bench)
            #expect(try Self.passes(packet, bench), "connections under way go on")

            var echo = packet
            let isIPv4 = packet.source.family == .v4
            echo.transport = isIPv4 ? 1 : 58
            echo.payload = [isIPv4 ? 8 : 128, 0, 0, 0, 0, 7, 0, 1]
            try Self.answer(echo, KNET_ADMITTED, bench)
            #expect(try Self.passes(echo, bench))
            var other = echo
            (other.source, other.destination) = (echo.destination, echo.source)
            #expect(try !Self.passes(other, bench))
        }
    }

    /// A stream that nobody knows any more, as after a loss of all maps, goes on where its beginner might begin it.
    @Test func aStreamThatIsNotKnownGoesOnByWhoeverSpeaks() throws {
        try Self.withPolicies { bench, packet in
            let (data, answer) = (packet.with(flags: Self.ack), packet.answer.with(flags: Self.ack))
            #expect(try !Self.passes(answer, bench))
            #expect(bench.object.maps[.verdicts]?.keys.count == 1, "who began it is asked about")
            #expect(try !Self.passes(packet.answer.with(flags: Self.syn | Self.ack), bench), "no beginning is known")
            #expect(try !Self.passes(data, bench), "the stack may know more")
            try Self.answer(data, KNET_ADMITTED, bench)
            #expect(try Self.passes(answer, bench))
            #expect(try Self.passes(data, bench))
            #expect(try !Self.passes(packet.answer.with(flags: Self.syn), bench), "the other may begin none")
        }
    }

    /// Who is answered in pieces asks by the stack from then on, whatever the port: policies would deny answers to what that does not know.
    @Test func questionsThatAreAnsweredInPiecesAreTheStacks() throws {
        try Self.withPolicies { bench, packet in
            let pods = try #require(ProgramBench.pods[packet.source.family])
            for (server, role, link) in [
                (pods.b, PathRole.fromPod, bench.links.b), (pods.remote, .fromNode, bench.links.a),
            ] {
                var query = packet
                query.destination = server
                try Self.answer(query, KNET_ADMITTED, bench, to: server == pods.b ? bench.links.b : 0)
                let before = bench.count(.policy)
                _ = try bench.run(query.bytes)
                #expect(bench.count(.policy) == before)
                let part = query.answer.firstPiece
                var forged = part
                forged.source = pods.outside
                for (part, isLeft) in [(forged, false), (part, true)] {
                    #expect(try bench.run(part.bytes, role, on: link)?.verdict == ProgramBench.stack)
                    let (tracked, policy) = (bench.count(.tracked), bench.count(.policy))
                    _ = try bench.run(query.bytes)
                    #expect(bench.count(.tracked) == tracked + (isLeft ? 1 : 0))
                    var other = query
                    other.payload[1] += isLeft ? 1 : 2
                    _ = try bench.run(other.bytes)
                    #expect(bench.count(.policy) == policy + (isLeft ? 1 : 0), "from another port too")
                }
            }
        }
    }

    /// A router's error about what a pod sent is the pod's.
    @Test func errorsOfRoutersReachPods() throws {
        try Self.withPolicies { bench, packet in
            let pods = try #require(ProgramBench.pods[packet.source.family])
            var sent = packet
            sent.destination = pods.remote
            let answer = TestPacket(source: pods.remote, destination: pods.a)
            try Self.answer(answer, KNET_ADMITTED, bench, from: 0, to: bench.links.a)
            #expect(try Self.passes(answer, bench))
            var about = answer.answer
            about.payload = answer.answer.payload
            let error = about.error(of: pods.outside)
            let result = try bench.run(error.bytes, .fromNode, on: bench.links.b)
            #expect(result?.verdict == ProgramBench.redirect)
            about.payload[1] += 1
            #expect(
                try bench.run(about.error(of: pods.outside).bytes, .fromNode, on: bench.links.b)?.verdict
                    == ProgramBench.stack)
        }
    }

    /// Each end's packets and bytes, and who began.
    @Test func connectionsAreCounted() throws {
        try Self.withPolicies { bench, packet in
            let open = packet.with(flags: Self.syn)
            try Self.answer(open, KNET_ADMITTED, bench)
            let answers = [Self.syn | Self.ack, Self.ack, Self.ack]
            #expect(try Self.passes(open, bench))
            for flags in answers { #expect(try Self.passes(open.answer.with(flags: flags), bench)) }
            let map = try #require(bench.object.maps[.flows])
            let flow = try #require(map.keys.first.flatMap { map.value($0) }).withUnsafeBytes {
                $0.loadUnaligned(as: knet_flow.self)
            }
            let isSecond = flow.beginner == 1
            let (sent, answered) = isSecond ? (flow.packets.1, flow.packets.0) : (flow.packets.0, flow.packets.1)
            #expect(sent == 1 && answered == 3)
            #expect((isSecond ? flow.bytes.0 : flow.bytes.1) == UInt64(3 * open.bytes.count))
            #expect((isSecond ? flow.pods.1.link : flow.pods.0.link) == UInt32(bench.links.a))
        }
    }
}
