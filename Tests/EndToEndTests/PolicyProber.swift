import CMnl
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// Tries all flows at once, from sockets in the namespaces of the pods that send.
final class PolicyProber {
    /// How a pod sends in one family.
    private struct Sender: Hashable {
        let pod: String
        let family: IPFamily
    }

    /// One look at everything. A flow is named by its index.
    private struct Round {
        var streams: [Int: SharedDescriptor] = [:]
        var datagrams: [Sender: SharedDescriptor] = [:]
        var reached: Set<Int> = []
    }

    private let flows = PolicyFlow.all
    private let world: PolicyWorld
    private let namespaces: [String: NetworkNamespace]
    private var turn = 0

    /// Without news for so long, what is not allowed is taken to be held back.
    private static let quiet = Duration.milliseconds(60)
    /// So long a look lasts at least before something is told to be missing.
    private static let shortest = Duration.milliseconds(200)
    /// Datagrams are sent once more after so long, as they may be lost.
    private static let repetition = Duration.milliseconds(20)
    /// A connection that was held back is begun anew, since the kernel tries again only after a second.
    private static let retry = Duration.milliseconds(100)

    init(_ world: PolicyWorld, namespaces: [String: NetworkNamespace]) {
        self.world = world
        self.namespaces = namespaces
    }

    /// Tries everything once, and goes on until all that is expected was reached and nothing else comes any more.
    /// - Parameter deadline: when what is expected is no longer waited for.
    /// - Returns: what was reached.
    func measure(
        expecting expected: Set<PolicyFlow>, until deadline: ContinuousClock.Instant
    ) throws -> Set<PolicyFlow> {
        let wanted = Set(flows.indices.filter { expected.contains(flows[$0]) })
        let start = ContinuousClock.now
        let end = max(deadline, start + Self.shortest)
        var round = Round()
        try openDatagrams(&round)
        send(flows.indices, &round)
        try connect(flows.indices, &round)
        var isRepeated = false
        var lastNews = ContinuousClock.now
        var nextTry = lastNews + Self.retry
        while true {
            if collect(&round) { lastNews = .now }
            let now = ContinuousClock.now
            let missing = wanted.subtracting(round.reached)
            let isDone = missing.isEmpty ? now - lastNews >= Self.quiet : now >= end
            if isDone { break }
            if !isRepeated, now - start >= Self.repetition {
                isRepeated = true
                send(flows.indices, &round)
            }
            if now >= nextTry {
                nextTry = now + Self.retry
                send(missing, &round)
                try connect(missing, &round)
            }
        }
        return Set(round.reached.map { flows[$0] })
    }

    // MARK: Sending

    /// A source port that no flow has had for long: what was allowed once may be remembered for its flow.
    private func nextPort() -> UInt16 {
        turn += 1
        return UInt16(20_000 + turn % 40_000)
    }

    private func namespace(of pod: String) throws -> NetworkNamespace {
        guard let namespace = namespaces[pod] else { throw Playground.Failure("no namespace of \(pod) is known") }
        return namespace
    }

    private func openDatagrams(_ round: inout Round) throws {
        let port = nextPort()
        for pod in PolicyWorld.pods {
            let opened = try namespace(of: pod).run { () throws -> [(Sender, SharedDescriptor)] in
                try IPFamily.allCases.map { family in
                    (Sender(pod: pod, family: family), try PolicySocket.open(family, SOCK_DGRAM, port: port))
                }
            }
            for (sender, descriptor) in opened { round.datagrams[sender] = descriptor }
        }
    }

    /// Sends a datagram for each of these flows that have not been reached. It says which flow it is of.
    private func send(_ indices: some Sequence<Int>, _ round: inout Round) {
        for index in indices where flows[index].transport == .udp && !round.reached.contains(index) {
            let flow = flows[index]
            guard let descriptor = round.datagrams[Sender(pod: flow.source, family: flow.family)],
                let address = world.address(of: flow.destination, flow.family)
            else { continue }
            let payload = [UInt8(index >> 8), UInt8(index & 255)]
            address.withSocketName(port: UInt16(flow.port)) { name, length in
                _ = sendto(descriptor.number, payload, payload.count, 0, name, length)
            }
        }
    }

    /// Begins a connection for each of these flows.
    private func connect(_ indices: some Sequence<Int>, _ round: inout Round) throws {
        let port = nextPort()
        let streams = indices.filter { flows[$0].transport == .tcp && !round.reached.contains($0) }
        for (pod, indices) in Dictionary(grouping: streams, by: { flows[$0].source }) {
            let opened = try namespace(of: pod).run { () throws -> [(Int, SharedDescriptor?)] in
                try indices.map { ($0, try stream(flows[$0], from: port)) }
            }
            for (index, descriptor) in opened { round.streams[index] = descriptor }
        }
    }

    /// - Returns: `nil` where the connection failed at once.
    private func stream(_ flow: PolicyFlow, from port: UInt16) throws -> SharedDescriptor? {
        guard let address = world.address(of: flow.destination, flow.family) else { return nil }
        let descriptor = try PolicySocket.open(flow.family, SOCK_STREAM, port: port)
        // Closing it sends a reset and leaves nothing behind.
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor.number, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
        let isOnItsWay = address.withSocketName(port: UInt16(flow.port)) { name, length in
            Glibc.connect(descriptor.number, name, length) == 0 || errno == EINPROGRESS
        }
        return isOnItsWay ? descriptor : nil
    }

    // MARK: What comes back

    /// - Returns: whether a flow was reached that had not been.
    private func collect(_ round: inout Round) -> Bool {
        let streams = round.streams.map { (flow: $0.key, descriptor: $0.value) }
        let datagrams = Array(round.datagrams.values)
        var polled = streams.map { pollfd(fd: $0.descriptor.number, events: Int16(POLLOUT), revents: 0) }
        polled += datagrams.map { pollfd(fd: $0.number, events: Int16(POLLIN), revents: 0) }
        guard poll(&polled, nfds_t(polled.count), 5) > 0 else { return false }
        let before = round.reached.count
        for (index, stream) in streams.enumerated() where polled[index].revents != 0 {
            if Self.isConnected(stream.descriptor.number) { round.reached.insert(stream.flow) }
            round.streams[stream.flow] = nil
        }
        for (index, descriptor) in datagrams.enumerated() where polled[streams.count + index].revents != 0 {
            receive(descriptor.number, &round)
        }
        return round.reached.count > before
    }

    private static func isConnected(_ descriptor: Int32) -> Bool {
        var error: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        return getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0
    }

    private func receive(_ descriptor: Int32, _ round: inout Round) {
        var bytes = [UInt8](repeating: 0, count: 64)
        while true {
            let count = recv(descriptor, &bytes, bytes.count, 0)
            guard count >= 0 else { return }
            let index = Int(bytes[0]) << 8 | Int(bytes[1])
            if count == 2, flows.indices.contains(index) { round.reached.insert(index) }
        }
    }
}
