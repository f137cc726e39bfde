import CMnl
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization

/// Sends from one pod to another without end, datagrams and the first packets of connections, and sees what of it comes to the other's
/// door: before any socket there, and whether or not it is answered.
final class PolicyKnocker: Sendable {
    private let door: PolicyDoor
    private let sources: [IPAddress]
    private let isStopped = Atomic(false)
    private let isOver = Atomic(false)

    /// Microseconds from one knock to the next.
    private static let interval: UInt32 = 2_000

    init(from source: String, to destination: String, _ stage: PolicyStage) throws {
        door = try PolicyDoor(of: try stage.playground.namespace(destination))
        sources = IPFamily.allCases.compactMap { stage.world.address(of: source, $0) }
        let namespace = try stage.playground.namespace(source)
        let targets = IPFamily.allCases.compactMap { stage.world.address(of: destination, $0) }
        try DedicatedThread.start(name: "policy-knock") { [self] in
            try? namespace.run { try knock(at: targets) }
            isOver.store(true, ordering: .releasing)
        }
    }

    /// How many packets arrived, by `port/transport family`.
    var arrived: [String: Int] { door.arrived(from: sources) }

    func stop() {
        isStopped.store(true, ordering: .relaxed)
        while !isOver.load(ordering: .acquiring) { usleep(5_000) }
        door.stop()
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
}
