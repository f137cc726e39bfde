import CMnl
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization

/// Sends from one pod to another without end, datagrams and the first packets of connections, and sees what of it comes to the other's
/// door: before any socket there, and whether or not it is answered.
final class PolicyKnocker: Sendable {
    private let arrivals = Mutex<[String: Int]>([:])
    private let isStopped = Atomic(false)
    /// Threads that have not ended yet.
    private let running = Atomic(2)

    /// Microseconds from one knock to the next.
    private static let interval: UInt32 = 2_000

    init(from source: String, to destination: String, _ stage: PolicyStage) throws {
        let door = try Self.door(of: try stage.playground.namespace(destination))
        let namespace = try stage.playground.namespace(source)
        let targets = IPFamily.allCases.compactMap { stage.world.address(of: destination, $0) }
        let own = IPFamily.allCases.compactMap { stage.world.address(of: source, $0)?.bytes }
        try DedicatedThread.start(name: "policy-door") { [self] in watch(door, from: own) }
        try DedicatedThread.start(name: "policy-knock") { [self] in
            try? namespace.run { try knock(at: targets) }
            running.subtract(1, ordering: .releasing)
        }
    }

    /// How many packets arrived, by `port/transport family`.
    var arrived: [String: Int] { arrivals.withLock { $0 } }

    func stop() {
        isStopped.store(true, ordering: .relaxed)
        while running.load(ordering: .acquiring) > 0 { usleep(5_000) }
    }

    // MARK: Knocking

    /// In the sender's namespace.
    private func knock(at targets: [IPAddress]) throws {
        let datagrams = try IPFamily.allCases.map { try PolicySocket.open($0, SOCK_DGRAM, port: 0) }
        var turn = 0
        while !isStopped.load(ordering: .relaxed) {
            turn += 1
            for target in targets {
                let port = UInt16(PolicyFlow.ports[turn % PolicyFlow.ports.count])
                let stream = try PolicySocket.open(target.family, SOCK_STREAM, port: 0)
                let datagram = datagrams[target.family == .v4 ? 0 : 1]
                target.withSocketName(port: port) { name, length in
                    var byte: UInt8 = 1
                    _ = sendto(datagram.number, &byte, 1, 0, name, length)
                    // Closed before an answer comes: each is a first packet.
                    _ = connect(stream.number, name, length)
                }
            }
            usleep(Self.interval)
        }
    }

    // MARK: The door

    /// A packet socket, which is given a packet before the pod's own network is.
    private static func door(of namespace: NetworkNamespace) throws -> SharedDescriptor {
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

    private func watch(_ door: SharedDescriptor, from sources: [[UInt8]]) {
        var bytes = [UInt8](repeating: 0, count: 2_048)
        while !isStopped.load(ordering: .relaxed) {
            let count = recv(door.number, &bytes, bytes.count, 0)
            guard count > 0, let kind = Self.kind(of: bytes[..<count], from: sources) else { continue }
            arrivals.withLock { $0[kind, default: 0] += 1 }
        }
        running.subtract(1, ordering: .releasing)
    }

    /// - Returns: `port/transport family` of a packet to a served port from one of these addresses; `nil` for any other.
    private static func kind(of packet: ArraySlice<UInt8>, from sources: [[UInt8]]) -> String? {
        let isSix = packet[0] >> 4 == 6
        // The fixed header of IPv6 (RFC 8200 §3); that of IPv4 with its options (RFC 791 §3.1).
        let ports = isSix ? 40 : Int(packet[0] & 15) * 4
        guard packet.count >= max(ports, 20) + 4 else { return nil }
        let transport = packet[isSix ? 6 : 9]
        let source = Array(isSix ? packet[8..<24] : packet[12..<16])
        let destinationPort = Int(packet[ports + 2]) << 8 | Int(packet[ports + 3])
        let names: [UInt8: PolicyFlow.Transport] = [6: .tcp, 17: .udp]
        guard sources.contains(source), PolicyFlow.ports.contains(destinationPort), let name = names[transport] else {
            return nil
        }
        return "\(destinationPort)/\(name.rawValue) \(isSix ? IPFamily.v6 : .v4)"
    }
}
