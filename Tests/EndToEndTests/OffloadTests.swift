import CMnl
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport
import Testing

/// Checksum offload that does not work, as some network cards have it: what the kernel leaves to them arrives wrong.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct OffloadTests {
    /// A cable in a node's way that carries frames as they are, with the checksums that were left to hardware undone.
    private final class FaultyCable: Sendable {
        private let ends: [SharedDescriptor]
        private let isStopped = Atomic(false)

        init(of node: String, _ playground: Playground) throws {
            let lan = try playground.namespace("lan")
            _ = try shell(
                """
                ip link set \(node) nomaster; ip link add faulty0 type veth peer name faulty1
                ip link set faulty0 up; ip link set faulty1 up master lan
                """, in: lan)
            ends = try [node, "faulty0"].map { name in try lan.run { SharedDescriptor(try Self.open(name)) } }
            for (from, to) in [(ends[0], ends[1]), (ends[1], ends[0])] {
                try DedicatedThread.start(name: "cable") { [self] in carry(from, to) }
            }
        }

        private static func open(_ link: String) throws -> Descriptor {
            // ETH_P_ALL of <linux/if_ether.h>; PACKET_IGNORE_OUTGOING of <linux/if_packet.h>.
            let everything = UInt16(3).bigEndian
            let descriptor = Descriptor(
                owning: try syscall("packet socket") { socket(AF_PACKET, Int32(SOCK_RAW.rawValue), Int32(everything)) })
            var one: Int32 = 1
            setsockopt(descriptor.number, SOL_PACKET, 23, &one, socklen_t(MemoryLayout<Int32>.size))
            var patience = timeval(tv_sec: 0, tv_usec: 200_000)
            setsockopt(descriptor.number, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
            var address = sockaddr_ll()
            address.sll_family = UInt16(AF_PACKET)
            address.sll_protocol = everything
            address.sll_ifindex = try NetlinkSocket.index(of: link)
            try syscall("bind") {
                withUnsafePointer(to: &address) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        bind(descriptor.number, $0, socklen_t(MemoryLayout<sockaddr_ll>.size))
                    }
                }
            }
            return descriptor
        }

        private func carry(_ from: SharedDescriptor, _ to: SharedDescriptor) {
            var frame = [UInt8](repeating: 0, count: 1 << 16)
            while !isStopped.load(ordering: .relaxed) {
                let count = recv(from.number, &frame, frame.count, 0)
                if count > 0 { send(to.number, frame, count, 0) }
            }
        }

        func stop() { isStopped.store(true, ordering: .relaxed) }
    }

    /// Two nodes, each with a pod, and such a cable between them; the daemons start when it is in.
    private func withFaultyCable(
        _ setting: JSONValue, _ body: (Playground, _ isConnected: () -> Bool) throws -> Void
    ) throws {
        try withPlayground(nodes: 2, ["plugins": ["overlay": ["checksumOffload": setting]]], families: [.v4]) {
            playground in
            try playground.addPod("a", node: "node1")
            let peer = try #require(playground.addPod("b", node: "node2").first { $0.family == .v4 })
            let server = try EchoServer(in: playground.namespace("b"))
            defer { server.stop() }
            let pod = try playground.namespace("a")
            let isConnected: () -> Bool = { (try? Prober(pod, milliseconds: 300).stream(peer, bytes: 100)) != nil }
            #expect(isConnected())
            for node in playground.nodeNames { try playground.stopDaemon(node) }
            let cable = try FaultyCable(of: "node1", playground)
            defer { cable.stop() }
            try eventually { (try? Prober(pod, milliseconds: 300).ping(peer)) != nil }
            for node in playground.nodeNames {
                try playground.startDaemon(node)
                try playground.waitUntilReady(node)
            }
            try body(playground, isConnected)
        }
    }

    @Test func aFaultIsFoundAndWorkedAroundAndTheNextStartKnows() throws {
        try withFaultyCable("auto") { playground, isConnected in
            #expect(!isConnected(), "the cable does nothing")
            try eventually(within: 10) { isConnected() }
            for node in playground.nodeNames {
                try eventually(within: 5) { try playground.status(of: node)["faultyOffloads"] == ["knetd.1"] }
                try playground.stopDaemon(node)
                try playground.startDaemon(node)
                try playground.waitUntilReady(node)
            }
            usleep(1_000_000)
            #expect(isConnected())
            #expect(try metric("knetd_kernel_writes_total", of: "node1", playground) == 0)
            #expect(try playground.status(of: "node1")["faultyOffloads"] == ["knetd.1"])
        }
    }

    @Test func switchedOnItStaysOnAndSwitchedOffItIsOff() throws {
        try withFaultyCable("on") { playground, isConnected in
            usleep(3_000_000)
            #expect(!isConnected())
            let isOn = try playground.namespace("node1").run { try ChecksumOffload.isOn("knetd.1") }
            #expect(isOn)
        }
        try withFaultyCable("off") { playground, isConnected in
            #expect(isConnected())
            let isOn = try playground.namespace("node1").run { try ChecksumOffload.isOn("knetd.1") }
            #expect(!isOn)
            #expect(try playground.status(of: "node1")["faultyOffloads"] == [])
        }
    }

    @Test func whereItWorksItStaysOn() throws {
        try withPlayground(nodes: 2) { playground in
            usleep(2_500_000)
            let isOn = try playground.namespace("node1").run { try ChecksumOffload.isOn("knetd.1") }
            #expect(isOn)
            #expect(try playground.status(of: "node1")["faultyOffloads"] == [])
        }
    }
}
