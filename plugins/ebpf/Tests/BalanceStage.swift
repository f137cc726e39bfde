import CKnetBPF
import Glibc
import KnetCore
import KnetLinux
import ServiceProxyPlugin
import TestSupport
import Testing

@testable import EBPFPlugin

/// A Service for which there are ways: to pod b here, or to another node's pod.
struct BalanceStage {
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

    func setCatchingUp(_ isCatchingUp: Bool) throws {
        let map = try #require(bench.object.maps[.settings])
        var settings = try #require(map.value([0, 0, 0, 0]).flatMap(MapForm.settings))
        settings.isCatchingUp = isCatchingUp
        try map.set([0, 0, 0, 0], MapForm.settings(settings))
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

    typealias Pods = (a: IPAddress, b: IPAddress, remote: IPAddress, outside: IPAddress)

    /// - Parameter backends: whom the Service leads to.
    static func with(
        _ backends: (Pods) -> [IPAddress] = { [$0.b] }, direct: Bool = false, policed: Bool = false,
        _ body: (Self) throws -> Void
    ) throws {
        for family in IPFamily.allCases {
            try ProgramBench.with { bench in
                let pods = try #require(ProgramBench.pods[family])
                func address(_ v4: String, _ v6: String) throws -> IPAddress {
                    try #require(IPAddress(family == .v4 ? v4 : v6))
                }
                // The uplink, and what leads to the other node.
                let stage = Self(
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
                try maps[.settings]?.set([0, 0, 0, 0], MapForm.settings(.init(wanted: settings, generation: 1)))
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
}
