import CBPF
import Glibc
import KnetCore
import KnetLinux
import TestSupport
import Testing

@testable import EBPFPlugin

/// A namespace with the links of two pods, programs and filled maps.
struct ProgramBench {
    /// <linux/pkt_cls.h>: TC_ACT_UNSPEC, TC_ACT_REDIRECT and TC_ACT_SHOT.
    static let (stack, redirect, shot): (UInt32, UInt32, UInt32) = (.max, 7, 2)
    /// Bytes over which every kernel runs a program: older ones over less than the headers of IP too, but not over less than Ethernet's.
    static func leastPacket(_ family: IPFamily) -> Int { 14 + (family == .v4 ? 20 : 40) }
    static let pods: [IPFamily: (a: IPAddress, b: IPAddress, remote: IPAddress, outside: IPAddress)] = [
        .v4: (address("10.42.1.2"), address("10.42.1.3"), address("10.42.2.9"), address("192.0.2.1")),
        .v6: (address("fd42::1:2"), address("fd42::1:3"), address("fd42:0:0:2::9"), address("2001:db8::1")),
    ]
    static let podMAC = MACAddress(number: 0x0200_0000_00B1)
    static let hostMAC = MACAddress(number: 0x0200_0000_00B0)

    let object: LoadedObject<PathRole, PathMap>
    let links: (a: Int32, b: Int32)

    func run(
        _ packet: [UInt8], _ role: PathRole = .fromPod, on link: Int32? = nil
    ) throws -> (verdict: UInt32, packet: [UInt8])? {
        let program = try #require(object.programs[role])
        var output = [UInt8](repeating: 0, count: packet.count + 512)
        var (size, verdict) = (UInt32(output.count), UInt32(0))
        let status = knet_bpf_try(
            program.descriptor.number, packet, UInt32(packet.count), &output, &size, UInt32(link ?? links.a),
            &verdict)
        if status < 0 { return nil }
        return (verdict, Array(output.prefix(Int(size))))
    }

    func count(_ outcome: PathOutcome) -> UInt64 {
        let map = object.maps[.counters]
        let key = withUnsafeBytes(of: outcome.rawValue) { Array($0) }
        let bytes = map?.value(key, bytes: 16 * BPF.processors) ?? []
        return bytes.withUnsafeBytes { raw in
            stride(from: 0, to: raw.count, by: 16).reduce(0) {
                $0 + raw.loadUnaligned(fromByteOffset: $1, as: UInt64.self)
            }
        }
    }

    static func with(_ body: (ProgramBench) throws -> Void) throws {
        try NetworkNamespace.anonymous().run {
            let socket = try NetlinkSocket()
            try socket.request(.changeLink(index: NetlinkSocket.index(of: "lo"), up: true))
            try Conntrack.load()
            let links = try (makeLink("knet-a"), makeLink("knet-b"))
            let object = try LoadedObject<PathRole, PathMap>(
                "path.o", Embedded.path, sizes: [.endpoints: 16, .nodes: 16], kept: [:])
            try object.maps[.settings]?.set([0, 0, 0, 0], MapForm.settings(.init(generation: 1)))
            for family in IPFamily.allCases {
                let pods = try #require(pods[family])
                for (pod, link) in [(pods.a, links.0), (pods.b, links.1)] {
                    try object.maps[.endpoints]?.set(
                        MapForm.address(pod), MapForm.endpoint(link: link, podMAC: podMAC, hostMAC: hostMAC))
                }
                let range = CIDR(containing: pods.remote, prefixLength: family == .v4 ? 24 : 64)
                try object.maps[.nodes]?.set(MapForm.range(range), [0, 0, 0, 0])
            }
            try body(ProgramBench(object: object, links: links))
        }
    }

    static func makeLink(_ name: String) throws -> Int32 {
        let outcome = try ChildProcess.run(
            "/bin/sh",
            [
                "-c",
                "ip link add \(name) address 02:00:00:00:00:01 type veth peer name \(name)p && ip link set \(name) up && ip link set \(name)p up",
            ])
        try #require(outcome.status == 0, "\(outcome)")
        return try NetlinkSocket.index(of: name)
    }

    private static func address(_ text: String) -> IPAddress { IPAddress(text) ?? .v4(0) }
}
