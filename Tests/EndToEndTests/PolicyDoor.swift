import CMnl
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization

/// Sees what comes to a pod's door, before any socket there, and whether or not it is answered.
final class PolicyDoor: Sendable {
    private let arrivals = Mutex<[IPAddress: [String: Int]]>([:])
    private let isStopped = Atomic(false)
    private let isOver = Atomic(false)

    init(of namespace: NetworkNamespace) throws {
        let door = try Self.open(in: namespace)
        try DedicatedThread.start(name: "policy-door") { [self] in
            watch(door)
            isOver.store(true, ordering: .releasing)
        }
    }

    /// How many packets came from these addresses to served ports, by `port/transport family`.
    func arrived(from sources: [IPAddress]) -> [String: Int] {
        arrivals.withLock { arrivals in
            sources.reduce(into: [String: Int]()) { all, source in
                all.merge(arrivals[source] ?? [:], uniquingKeysWith: +)
            }
        }
    }

    /// Who else than these sent something to a served port.
    func strangers(but known: Set<IPAddress>) -> Set<IPAddress> {
        arrivals.withLock { Set($0.keys).subtracting(known) }
    }

    func stop() {
        isStopped.store(true, ordering: .relaxed)
        while !isOver.load(ordering: .acquiring) { usleep(5_000) }
    }

    /// A packet socket, which is given a packet before the pod's own network is.
    private static func open(in namespace: NetworkNamespace) throws -> SharedDescriptor {
        try namespace.run {
            // ETH_P_ALL of <linux/if_ether.h>, packets without their link's header.
            let number = try syscall("packet socket") {
                socket(AF_PACKET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), Int32(UInt16(3).bigEndian))
            }
            let descriptor = SharedDescriptor(Descriptor(owning: number))
            Sockets.limit(number, milliseconds: 100)
            return descriptor
        }
    }

    private func watch(_ door: SharedDescriptor) {
        var bytes = [UInt8](repeating: 0, count: 2_048)
        while !isStopped.load(ordering: .relaxed) {
            let count = recv(door.number, &bytes, bytes.count, 0)
            guard count > 0, let (source, kind) = Self.kind(of: bytes[..<count]) else { continue }
            arrivals.withLock { $0[source, default: [:]][kind, default: 0] += 1 }
        }
    }

    /// - Returns: the sender and `port/transport family` of a packet to a served port; `nil` for any other.
    private static func kind(of packet: ArraySlice<UInt8>) -> (source: IPAddress, kind: String)? {
        let isSix = packet[0] >> 4 == 6
        // The fixed header of IPv6 (RFC 8200 §3); that of IPv4 with its options (RFC 791 §3.1).
        let ports = isSix ? 40 : Int(packet[0] & 15) * 4
        guard packet.count >= max(ports, 20) + 4 else { return nil }
        let transport = packet[isSix ? 6 : 9]
        let destinationPort = Int(packet[ports + 2]) << 8 | Int(packet[ports + 3])
        let names: [UInt8: PolicyFlow.Transport] = [6: .tcp, 17: .udp]
        guard PolicyFlow.ports.contains(destinationPort), let name = names[transport],
            let source = IPAddress(bytes: isSix ? packet[8..<24] : packet[12..<16])
        else { return nil }
        return (source, "\(destinationPort)/\(name.rawValue) \(isSix ? IPFamily.v6 : .v4)")
    }
}
