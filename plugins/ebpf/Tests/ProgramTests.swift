import CBPF
import CKnetBPF
import Glibc
import KnetCore
import KnetLinux
import TestSupport
import Testing

@testable import EBPFPlugin

/// The programs by themselves: packets in, verdict and packet out.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct ProgramTests {
    private static let (stack, redirect) = (ProgramBench.stack, ProgramBench.redirect)
    private static let pods = ProgramBench.pods
    @Test(arguments: IPFamily.allCases) func packetsOfTwoPodsOfTheNodeGoPastTheStack(family: IPFamily) throws {
        let pods = try #require(Self.pods[family])
        try ProgramBench.with { bench in
            for transport in [6, 17] as [UInt8] {
                let packet = TestPacket(source: pods.a, destination: pods.b, transport: transport).bytes
                let result = try #require(try bench.run(packet))
                #expect(result.verdict == Self.redirect)
                #expect(result.packet.count == packet.count)
                #expect(Array(result.packet[..<12]) == ProgramBench.podMAC.bytes + ProgramBench.hostMAC.bytes)
                if family == .v4 {
                    #expect(result.packet[22] == 63)
                    // A checksum over a header with its own checksum is zero.
                    #expect(TestPacket.checksum(result.packet[14..<34]) == 0)
                } else {
                    #expect(result.packet[21] == 63)
                }
                #expect(result.packet[(family == .v4 ? 34 : 54)...] == packet[(family == .v4 ? 34 : 54)...])
                // The same from another node.
                let remote = TestPacket(source: pods.remote, destination: pods.b, transport: transport).bytes
                #expect(try bench.run(remote, .fromNode)?.verdict == Self.redirect)
            }
            let echo: [UInt8] = [family == .v4 ? 8 : 128, 0, 0, 0, 0, 1, 0, 1]
            let ping = TestPacket(
                source: pods.a, destination: pods.b, transport: family == .v4 ? 1 : 58, payload: echo)
            #expect(try bench.run(ping.bytes)?.verdict == Self.redirect)
            #expect(bench.count(.toPod) == 5)
        }
    }

    @Test(arguments: IPFamily.allCases) func allOthersAreTheStacks(family: IPFamily) throws {
        let pods = try #require(Self.pods[family])
        let icmp: UInt8 = family == .v4 ? 1 : 58
        try ProgramBench.with { bench in
            func expect(
                _ outcome: PathOutcome, _ packet: TestPacket, _ role: PathRole = .fromPod, on link: Int32? = nil,
                line: Int = #line
            ) throws {
                let before = bench.count(outcome)
                let bytes = packet.bytes
                let result = try #require(try bench.run(bytes, role, on: link))
                #expect(result.verdict == Self.stack && result.packet == bytes, "line \(line)")
                #expect(bench.count(outcome) == before + 1, "line \(line)")
            }
            let plain = TestPacket(source: pods.a, destination: pods.b)
            try expect(.other, TestPacket(source: pods.a, destination: pods.outside))
            try expect(.other, TestPacket(source: pods.a, destination: pods.a))
            // From where the source is not, a pod's or another node's.
            try expect(.source, plain, on: bench.links.b)
            try expect(.source, TestPacket(source: pods.outside, destination: pods.b))
            try expect(.source, TestPacket(source: pods.outside, destination: pods.b), .fromNode)
            try expect(.source, TestPacket(source: pods.a, destination: pods.b), .fromNode)
            try expect(.other, TestPacket(source: pods.remote, destination: pods.remote), .fromNode)
            for lifetime in [0, 1] as [UInt8] {
                var dying = plain
                dying.lifetime = lifetime
                try expect(.error, dying)
            }
            // No route leads to the other node here.
            try expect(.route, TestPacket(source: pods.a, destination: pods.remote))
            var large = plain
            large.payload += [UInt8](repeating: 1, count: 1_500)
            try expect(.error, large)
            // Errors that belong to a connection; transports without ports; ICMP of the other family.
            try expect(
                .tracked,
                TestPacket(
                    source: pods.a, destination: pods.b, transport: icmp,
                    payload: [3, 1] + [UInt8](repeating: 0, count: 30)))
            try expect(.header, TestPacket(source: pods.a, destination: pods.b, transport: 47))
            try expect(.header, TestPacket(source: pods.a, destination: pods.b, transport: 59 - icmp))
            var tagged = plain
            tagged.vlan = true
            try expect(.other, tagged)
            if family == .v4 {
                for fragment in [0x2000, 0x0001, 0x2001, 0x8000] as [UInt16] {
                    var part = plain
                    part.fragment = fragment
                    try expect(.header, part)
                }
                var whole = plain
                whole.fragment = 0x4000
                #expect(try bench.run(whole.bytes)?.verdict == Self.redirect)
                var options = plain
                options.options = [7, 7, 4, 0, 0, 0, 0, 0]
                try expect(.header, options)
            } else {
                // Hop-by-hop, routing, fragment, destination options, authentication.
                for header in [0, 43, 44, 60, 51] as [UInt8] {
                    try expect(.header, TestPacket(source: pods.a, destination: pods.b, transport: header))
                }
            }
        }
    }

    /// A packet cut short anywhere says more of its length than it has.
    @Test(arguments: IPFamily.allCases) func noTruncatedPacketGoesPastTheStack(family: IPFamily) throws {
        let pods = try #require(Self.pods[family])
        try ProgramBench.with { bench in
            for role in PathRole.allCases {
                let source = role == .fromPod ? pods.a : pods.remote
                let whole = TestPacket(source: source, destination: pods.b, transport: 6).bytes
                // The third one is of a stream that is known.
                for _ in 0..<3 { #expect(try bench.run(whole, role)?.verdict == Self.redirect) }
                for length in 0..<whole.count {
                    guard let result = try bench.run(Array(whole.prefix(length)), role) else {
                        #expect(length < ProgramBench.leastPacket(family))
                        continue
                    }
                    #expect(result.verdict == Self.stack, "\(length) bytes")
                    #expect(result.packet == Array(whole.prefix(length)), "\(length) bytes")
                }
            }
        }
    }

    /// A packet that is whole by its lengths, but has less than its transport's header.
    @Test(arguments: IPFamily.allCases) func noShortTransportGoesPastTheStack(family: IPFamily) throws {
        let pods = try #require(Self.pods[family])
        let echo: [UInt8] = [family == .v4 ? 8 : 128, 0, 0, 0, 0, 1, 0, 1]
        try ProgramBench.with { bench in
            for role in PathRole.allCases {
                let source = role == .fromPod ? pods.a : pods.remote
                for (transport, least) in [(6, 20), (17, 8), (family == .v4 ? 1 : 58, 8)] as [(UInt8, Int)] {
                    var packet = TestPacket(source: source, destination: pods.b, transport: transport)
                    if least == 8, transport != 17 { packet.payload = echo }
                    #expect(try bench.run(packet.bytes, role)?.verdict == Self.redirect, "\(transport)")
                    for length in 0..<least {
                        var short = packet
                        short.payload = Array(packet.payload.prefix(length))
                        let result = try #require(try bench.run(short.bytes, role))
                        #expect(result.verdict == Self.stack, "\(transport): \(length) bytes")
                        #expect(result.packet == short.bytes)
                    }
                }
            }
        }
    }

    /// From other nodes too.
    @Test(arguments: IPFamily.allCases) func fragmentsOptionsAndTagsOfOtherNodesAreTheStacks(family: IPFamily) throws {
        let pods = try #require(Self.pods[family])
        try ProgramBench.with { bench in
            let plain = TestPacket(source: pods.remote, destination: pods.b)
            func changed(_ change: (inout TestPacket) -> Void) -> TestPacket {
                var packet = plain
                change(&packet)
                return packet
            }
            var all = ([44, 0, 60] as [UInt8]).map { transport in changed { $0.transport = transport } }
            all += [changed { $0.vlan = true }, changed { $0.lifetime = 1 }]
            if family == .v4 {
                all += [0x2000, 0x0001, 0x2001].map { fragment in changed { $0.fragment = fragment } }
                all.append(changed { $0.options = [7, 7, 4, 0, 0, 0, 0, 0] })
            }
            #expect(try bench.run(plain.bytes, .fromNode)?.verdict == Self.redirect)
            for packet in all {
                let result = try #require(try bench.run(packet.bytes, .fromNode))
                #expect(result.verdict == Self.stack && result.packet == packet.bytes, "\(packet)")
            }
        }
    }

    /// The verifier of the kernel at hand takes those of sockets too.
    @Test func programsOfSocketsAreLoaded() throws {
        let object = try LoadedObject<SocketHook, SocketMap>("socket.o", Embedded.socket, sizes: [:], kept: [:])
        #expect(object.programs.count == SocketHook.allCases.count)
    }

    /// `KNETD_FUZZ_RUNS` counts them. Where policies have admitted nothing, nothing goes past the stack.
    @Test func randomPacketsAreNotAdmitted() throws {
        let runs = getenv("KNETD_FUZZ_RUNS").flatMap { Int(String(cString: $0)) } ?? 20_000
        var generator = SeededGenerator(seed: 15)
        try ProgramBench.with { bench in
            try bench.object.maps[.settings]?.set(
                [0, 0, 0, 0], MapForm.settings(.init(wanted: .init(isPoliced: true, isTold: true), generation: 1)))
            for run in 0..<runs {
                let (packet, role) = try Self.randomPacket(&generator)
                guard let result = try bench.run(packet, role) else { continue }
                guard result.verdict == Self.stack, result.packet == packet else {
                    Issue.record("run \(run): verdict \(result.verdict): \(packet)")
                    return
                }
            }
            #expect(bench.count(.policy) > runs / 400)
        }
    }

    /// Between any two of a few ends, now and then with some bytes changed, or cut short.
    private static func randomPacket(_ generator: inout SeededGenerator) throws -> (bytes: [UInt8], role: PathRole) {
        func any<Value>(of values: [Value]) -> Value { values[.random(in: 0..<values.count, using: &generator)] }
        let pods = try #require(Self.pods[any(of: IPFamily.allCases)])
        let ends = [pods.a, pods.b, pods.remote, pods.outside]
        var packet = TestPacket(
            source: any(of: ends), destination: any(of: ends), transport: any(of: [6, 17, 1, 58, 132, 0]),
            lifetime: any(of: [0, 1, 2, 64, 255])
        ).bytes
        for _ in 0..<Int.random(in: 0...3, using: &generator) {
            packet[Int.random(in: 0..<packet.count, using: &generator)] = .random(in: 0...255, using: &generator)
        }
        if Int.random(in: 0..<4, using: &generator) == 0 {
            packet.removeLast(Int.random(in: 0..<packet.count - 14, using: &generator))
        }
        return (packet, any(of: PathRole.allCases))
    }

    /// `KNETD_FUZZ_RUNS` counts them. What is redirected is what an independent reading finds good.
    @Test func randomPacketsAreNotMisread() throws {
        let runs = getenv("KNETD_FUZZ_RUNS").flatMap { Int(String(cString: $0)) } ?? 50_000
        var generator = SeededGenerator(seed: 8)
        try ProgramBench.with { bench in
            var redirected = 0
            for run in 0..<runs {
                let (packet, role) = try Self.randomPacket(&generator)
                guard var result = try bench.run(packet, role) else { continue }
                let mayPass = Self.isOfTwoPods(packet, role)
                // One that was answered in pieces is the stack's.
                if mayPass, result.verdict == Self.stack, try Self.forgetLeftFlows(bench) {
                    result = try #require(try bench.run(packet, role))
                }
                redirected += result.verdict == Self.redirect ? 1 : 0
                let isRight = result.verdict == (mayPass ? Self.redirect : Self.stack)
                if !isRight {
                    Issue.record("run \(run): verdict \(result.verdict), expected \(mayPass): \(packet)")
                    return
                }
                if result.verdict == Self.stack { #expect(result.packet == packet) }
            }
            #expect(redirected > runs / 200)
        }
    }

    /// - Returns: whether there were any.
    private static func forgetLeftFlows(_ bench: ProgramBench) throws -> Bool {
        let map = try #require(bench.object.maps[.flows])
        let left = map.keys.filter { key in
            map.value(key).map { MapForm.read($0[...], knet_flow.self).ended & UInt32(KNET_IS_LEFT) != 0 } == true
        }
        for key in left { try map.remove(key) }
        return !left.isEmpty
    }

    /// The same question, asked of the bytes in another way.
    private static func isOfTwoPods(_ packet: [UInt8], _ role: PathRole) -> Bool {
        guard packet.count >= 14, packet[..<6] == [2, 0, 0, 0, 0, 1] else { return false }
        let type = Int(packet[12]) << 8 | Int(packet[13])
        let rest = Array(packet[14...])
        let (family, length): (IPFamily, Int) = type == 0x0800 ? (.v4, 20) : (.v6, 40)
        guard type == 0x0800 || type == 0x86DD, rest.count >= length + 8, let pods = pods[family] else { return false }
        func short(_ offset: Int) -> Int { Int(rest[offset]) << 8 | Int(rest[offset + 1]) }
        let (source, destination, transport, lifetime, total): (IPAddress?, IPAddress?, UInt8, UInt8, Int) =
            family == .v4
            ? (IPAddress(bytes: rest[12..<16]), IPAddress(bytes: rest[16..<20]), rest[9], rest[8], short(2))
            : (IPAddress(bytes: rest[8..<24]), IPAddress(bytes: rest[24..<40]), rest[6], rest[7], 40 + short(4))
        if family == .v4, rest[0] != 0x45 || short(6) & 0xBFFF != 0 { return false }
        if family == .v6, rest[0] >> 4 != 6 { return false }
        let least = [6: 20, 17: 8, 1: 8, 58: 8][transport] ?? .max
        guard total - length >= least, total <= rest.count, lifetime > 1 else { return false }
        guard destination == pods.b || role != .fromPod && destination == pods.a else { return false }
        guard role == .fromPod ? source == pods.a : isRemote(source) else { return false }
        switch (transport, family) {
        case (6, _), (17, _): return true
        case (1, .v4): return [0, 8].contains(rest[20])
        case (58, .v6): return [128, 129].contains(rest[40])
        default: return false
        }
    }

    private static func isRemote(_ address: IPAddress?) -> Bool {
        guard let address, let remote = pods[address.family]?.remote else { return false }
        return CIDR(containing: remote, prefixLength: address.family == .v4 ? 24 : 64).contains(address)
    }
}
