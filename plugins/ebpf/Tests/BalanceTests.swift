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
    private static let (syn, ack, fin) = (TestPacket.Flags.syn, TestPacket.Flags.ack, TestPacket.Flags.fin)

    /// A Service for which there are ways: to pod b here, or to another node's pod.
    private struct Stage {
        let bench: ProgramBench
        let uplink: Int32
        let family: IPFamily
        let client: IPAddress
        let router: IPAddress
        let frontend: IPAddress
        let own: IPAddress
        let pods: Pods

        func packet(_ flags: UInt8? = nil, port: UInt8 = 0x34) -> TestPacket {
            var packet = TestPacket(source: client, destination: frontend)
            packet.payload[1] = port
            return (flags.map { packet.with(flags: $0) } ?? packet).summed
        }

        /// What becomes of a packet; `nil`: it is the stack's.
        func run(_ packet: TestPacket, _ role: PathRole = .fromOutside, on link: Int32? = nil) throws -> [UInt8]? {
            let result = try #require(try bench.run(packet.bytes, role, on: link ?? uplink))
            if result.verdict == ProgramBench.stack {
                #expect(result.packet == packet.bytes)
                return nil
            }
            #expect(result.verdict == ProgramBench.redirect)
            let bytes = result.packet
            if family == .v4 { #expect(TestPacket.checksum(bytes[14..<34]) == 0, "the header's sum") }
            #expect(bytes[family == .v4 ? 22 : 21] == packet.lifetime - 1)
            #expect(TestPacket.transportSum(bytes) == 0, "the transport's sum: \(bytes)")
            return bytes
        }

        /// Source and destination with ports.
        func ends(_ bytes: [UInt8], at start: Int = 14) -> [String] {
            let (first, size, ports) = family == .v4 ? (start + 12, 4, start + 20) : (start + 8, 16, start + 40)
            return (0..<2).map { index in
                let address = IPAddress(bytes: bytes[first + index * size..<first + (index + 1) * size])
                let port = Int(bytes[ports + 2 * index]) << 8 | Int(bytes[ports + 2 * index + 1])
                return "\(address.map { "\($0)" } ?? "?") \(port)"
            }
        }
        /// Whether a packet may be one of a connection with the Service, by another reading of its bytes. Errors are about answers, which
        /// nobody sent here.
        func isForService(_ bytes: [UInt8]) -> Bool {
            guard bytes.count >= 14, bytes[..<6] == [2, 0, 0, 0, 0, 1],
                Array(bytes[12..<14]) == (family == .v4 ? [8, 0] : [0x86, 0xDD])
            else { return false }
            let rest = Array(bytes[14...])
            let start = family == .v4 ? 20 : 40
            guard rest.count >= start + 8 else { return false }
            func short(_ offset: Int) -> Int { Int(rest[offset]) << 8 | Int(rest[offset + 1]) }
            let (transport, lifetime, total) =
                family == .v4 ? (rest[9], rest[8], short(2)) : (rest[6], rest[7], 40 + short(4))
            if family == .v4, rest[0] != 0x45 || short(6) & 0xBFFF != 0 { return false }
            if family == .v6, rest[0] >> 4 != 6 { return false }
            let destination = family == .v4 ? rest[16..<20] : rest[24..<40]
            guard lifetime > 1, total <= rest.count, Array(destination) == frontend.bytes else { return false }
            switch transport {
            case 6: return total >= start + 20 && short(start + 2) == 0x35
            case 17: return total >= start + 8 && short(start + 2) == 0x35
            case 1, 58:
                // About what the Service's address sent.
                let inner = start + 8 + (family == .v4 ? 20 : 40)
                return total >= inner + 4 && short(inner) == 0x35
            default: return false
            }
        }
    }

    private typealias Pods = (a: IPAddress, b: IPAddress, remote: IPAddress, outside: IPAddress)

    /// - Parameter backends: whom the Service leads to.
    private static func with(
        _ backends: (Pods) -> [IPAddress] = { [$0.b] }, direct: Bool = false, policed: Bool = false,
        _ body: (Stage) throws -> Void
    ) throws {
        for family in IPFamily.allCases {
            try ProgramBench.with { bench in
                let pods = try #require(ProgramBench.pods[family])
                func address(_ v4: String, _ v6: String) throws -> IPAddress {
                    try #require(IPAddress(family == .v4 ? v4 : v6))
                }
                // The uplink, and what leads to the other node.
                let stage = Stage(
                    bench: bench, uplink: try ProgramBench.makeLink("knet-u"), family: family,
                    client: pods.outside, router: try address("192.0.2.254", "2001:db8::254"),
                    frontend: try address("203.0.113.7", "2001:db8:7::7"), own: try address("10.42.1.0", "fd42:1::"),
                    pods: pods)
                let (ip, length) = family == .v4 ? ("ip", 24) : ("ip -6", 64)
                for network in [stage.client, pods.remote] {
                    let commands =
                        "\(ip) route add \(network)/\(length == 24 ? 32 : 128) dev knet-u && "
                        + "\(ip) neighbour add \(network) dev knet-u lladdr 02:00:00:00:00:99"
                    let outcome = try ChildProcess.run("/bin/sh", ["-c", commands])
                    try #require(outcome.status == 0, "\(outcome)")
                }
                for link in ["knet-u", "all", "knet-a", "knet-b"] {
                    try Sysctl.write("net/\(family == .v4 ? "ipv4" : "ipv6")/conf/\(link)/forwarding", "1")
                }
                var settings = PathSettings(isPoliced: policed, isTold: true, isBalanced: true, isDirect: direct)
                settings.own = [family: stage.own]
                let maps = bench.object.maps
                try maps[.settings]?.set([0, 0, 0, 0], MapForm.settings(settings, generation: 1))
                let frontends = FrontendMaps(try #require(maps[.outside]), slots: try #require(maps[.tables]))
                let ends = backends(pods)
                for transport in [6, 17] as [UInt8] {
                    let id = PlainFrontend.ID(transport: transport, address: stage.frontend, port: 0x35)
                    let slots = (0..<64).map { number in
                        PlainFrontend.Slot(number: UInt32(number), address: ends[number % ends.count], port: 7007)
                    }
                    try frontends.set(
                        PlainFrontend(id: id, size: 64, slots: slots), replacing: nil,
                        SocketForm.number(64) + SocketForm.number(1))
                }
                try body(stage)
            }
        }
    }

    @Test func aConnectionGoesToAPodHereAndItsAnswersBack() throws {
        try Self.with { stage throws in
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
        try Self.with({ [$0.remote] }) { stage throws in
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
        try Self.with { stage throws in
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
            try maps[.settings]?.set([0, 0, 0, 0], MapForm.settings(PathSettings(), generation: 1))
            #expect(try stage.run(stage.packet(Self.syn)) == nil)
        }
    }

    @Test func errorsAreTranslatedWithWhatTheyAreAbout() throws {
        try Self.with { stage throws in
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
        try Self.with { stage throws in
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
        try Self.with { stage throws in
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
        try Self.with { stage throws in
            #expect(try stage.run(stage.packet()) != nil)
            var answer = TestPacket(source: stage.pods.b, destination: stage.client)
            answer.payload[..<4] = [0x1B, 0x5F, 0x12, 0x34]
            #expect(try stage.run(answer.firstPiece, .fromPod, on: stage.bench.links.b) == nil)
            #expect(try stage.run(answer.summed, .fromPod, on: stage.bench.links.b) == nil)
            #expect(try stage.run(stage.packet()) == nil)
            #expect(try stage.run(stage.packet(port: 0x35)) != nil)
        }
    }

    @Test func policiesAreAskedForTheEndpoint() throws {
        try Self.with(policed: true) { stage throws in
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
        try Self.with({ [$0.a, $0.b] }) { stage throws in
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
            try Self.with({ [$0.remote] }, direct: true) { stage throws in
                let forth = try #require(try stage.run(stage.packet(Self.syn)))
                #expect(stage.ends(forth) == ["\(stage.client) \(0x1234)", "\(stage.frontend) \(0x35)"])
                #expect(Array(forth[..<6]) == [2, 0, 0, 0, 0, 0x99])
                #expect(try stage.run(stage.packet(Self.ack)) != nil)
                #expect(try stage.run(stage.packet(Self.syn, port: 9), .fromNode) == nil, "it is not sent on twice")
            }
            try Self.with(direct: true) { stage throws in
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
        try Self.with { stage throws in
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
        try Self.with { stage throws in
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
        try Self.with { stage throws in
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
    /// right or as wrong as they were.
    @Test func randomPacketsAreNotMisread() throws {
        let runs = getenv("KNETD_FUZZ_RUNS").flatMap { Int(String(cString: $0)) } ?? 20_000
        var generator = SeededGenerator(seed: 16)
        try Self.with { stage throws in
            var redirected = 0
            for run in 0..<runs / 2 {
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
                default: Issue.record("run \(run): verdict \(result.verdict) of \(bytes)")
                }
            }
            #expect(redirected > runs / 20)
        }
    }

    /// One packet of a known connection with the Service that does not come from the client.
    private struct Way {
        let name: String
        let packet: TestPacket
        let role: PathRole
        let link: Int32
        /// Where in it the ends are that say which connection it belongs to, and what they become.
        let place: Int
        let told: [String]
    }

    /// An answer of the endpoint, and an error of it about a request; each once the connection has begun.
    private static func ways(_ stage: Stage, isRemote: Bool, _ flags: UInt8?) throws -> [Way] {
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
            try with({ [isRemote ? $0.remote : $0.b] }) { stage throws in
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

    // MARK: How long it lasts

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
            try Self.with({ [isRemote ? $0.remote : $0.b] }) { stage throws in
                for flags in [Self.syn, nil] as [UInt8?] {
                    let way = try Self.ways(stage, isRemote: isRemote, flags)[0]
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
        try Self.with { stage throws in
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
        try Self.with { stage throws in
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
        try Self.with({ [$0.remote] }, direct: true) { stage throws in
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
        try Self.with { stage throws in
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
