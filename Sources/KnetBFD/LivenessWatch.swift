import Glibc
public import KnetCore
import KnetLinux
import Synchronization

/// Whether neighbours are alive, by BFD with each of them (RFC 5880, 5881): one for the whole process, since the port is one.
///
/// It lives as long as the process: a reload must not look like a restart to neighbours.
public final class LivenessWatch: Sendable {
    /// How often is asked, and when a neighbour is given up.
    public struct Pace: Hashable, Sendable {
        /// Milliseconds between packets.
        public let interval: Int
        /// So many of them may be lost.
        public let multiplier: Int
        /// Whether it is told when this process ends. A router that is told so takes its routes away, which it would keep over a restart
        /// (FRR 8.4, against RFC 5880 §6.2).
        public let hasFarewell: Bool

        public init(interval: Int, multiplier: Int, hasFarewell: Bool) {
            self.interval = interval
            self.multiplier = multiplier
            self.hasFarewell = hasFarewell
        }
    }

    /// What became of a neighbour.
    public enum Liveness: Hashable, Sendable {
        case up
        /// Not heard yet, or again after it was lost.
        case unknown
        /// It said itself that its session is down, as one does that has just begun: it lives, and the session comes up soon.
        case restarting
        /// Silent for the detection time.
        case silent
        /// It ended its sessions.
        case ended
    }

    public struct Neighbour: Hashable, Sendable {
        public let address: IPAddress
        public let liveness: Liveness
        /// Why it is so, in words.
        public let reason: String
        /// On the watch's clock.
        public let since: Duration
    }

    public typealias Listener = @Sendable () -> Void

    private struct Shared {
        var watched: [IPAddress: WatchedNeighbour] = [:]
        var listeners: [String: Listener] = [:]
        var isRunning = false
        var isEnding = false
        var isStopped = false
        var fault: String?
    }

    private let shared = Mutex(Shared())
    private let waker: Waker

    public init() throws { waker = try Waker() }

    /// Why nobody can be watched.
    public var fault: String? { shared.withLock { $0.fault } }

    /// Watches these neighbours for `owner`, in the place of those it named before.
    /// - Parameters:
    ///   - owner: a plugin's name.
    ///   - listener: told of changes, on a thread that must not wait.
    public func watch(_ neighbours: [IPAddress: Pace], for owner: String, listener: @escaping Listener) {
        let now = Self.now
        let mustStart = shared.withLock { shared in
            guard !shared.isEnding else { return false }
            shared.listeners[owner] = listener
            for address in shared.watched.keys where neighbours[address] == nil {
                shared.watched[address]?.wishes[owner] = nil
                shared.watched[address]?.settle(now)
            }
            for (address, pace) in neighbours.sorted(by: { $0.key < $1.key }) {
                if shared.watched[address] == nil {
                    do {
                        shared.watched[address] = try WatchedNeighbour(address, among: shared.watched, pace, now)
                        shared.fault = nil
                    } catch { shared.fault = "BFD with \(address): \(error)" }
                }
                shared.watched[address]?.wishes[owner] = pace
                shared.watched[address]?.settle(now)
            }
            guard !shared.watched.isEmpty, !shared.isRunning else { return false }
            shared.isRunning = true
            return true
        }
        if mustStart { start() } else { waker.call() }
    }

    /// Watches nobody any more for owners but these.
    public func forgetOthers(than owners: Set<String>) {
        for owner in shared.withLock({ $0.listeners.keys.filter { !owners.contains($0) } }) {
            watch([:], for: owner) {}
            shared.withLock { $0.listeners[owner] = nil }
        }
    }

    /// Whether neighbours were told that it ends: it does not know any more whether they are alive.
    public var isEnding: Bool { shared.withLock { $0.isEnding } }

    public func neighbour(_ address: IPAddress) -> Neighbour? { shared.withLock { $0.watched[address]?.told(address) } }

    public var neighbours: [Neighbour] {
        shared.withLock { shared in shared.watched.map { $1.told($0) } }.sorted { $0.address < $1.address }
    }

    /// Tells those neighbours that are to know it that this process ends, and watches them no more.
    public func sayFarewell() {
        shared.withLock { shared in
            shared.isEnding = true
            var generator = SystemRandomNumberGenerator()
            for address in shared.watched.keys {
                guard shared.watched[address]?.wishes.values.contains(where: \.hasFarewell) == true,
                    // What still comes in must find it ended, or it would come up again.
                    var watched = shared.watched.removeValue(forKey: address)
                else { continue }
                watched.wishes = [:]
                watched.settle(Self.now)
                for packet in watched.session.tick(now: Self.now, using: &generator).packets {
                    watched.send(packet, to: address)
                }
            }
        }
    }

    /// Ends; those who are not to know it hear nothing more.
    public func stop() {
        sayFarewell()
        shared.withLock { $0.isStopped = true }
        waker.call()
    }

    // MARK: The thread

    private func start() {
        do {
            let sockets = try IPFamily.allCases.compactMap { family in
                do { return try Self.listen(family) } catch let error as SystemError where error.errno == EAFNOSUPPORT {
                    return nil
                }
            }
            try DedicatedThread.start(name: "knetd-bfd") { [self] in serve(sockets) }
        } catch {
            shared.withLock {
                $0.fault = "BFD: \(error)"
                $0.isRunning = false
            }
        }
    }

    private func serve(_ sockets: [SharedDescriptor]) {
        var generator = SystemRandomNumberGenerator()
        while true {
            let deadline = shared.withLock { shared in
                shared.isStopped ? nil : shared.watched.values.compactMap(\.deadline).min() ?? Self.now + .seconds(60)
            }
            guard let deadline else { return }
            let wait = max(0, Int((deadline - Self.now) / .microseconds(1)) + 999) / 1000
            var polled = (sockets.map(\.number) + [waker.number]).map {
                pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
            }
            poll(&polled, nfds_t(polled.count), Int32(clamping: min(wait, 60_000)))
            waker.rest()
            // First what has arrived: a process that was held up does not take its own sleep for the neighbours'.
            let (changed, listeners) = shared.withLock { shared in
                var changed = false
                for socket in sockets { changed = Self.receive(socket.number, &shared.watched) || changed }
                changed = Self.tick(&shared.watched, &generator) || changed
                return (changed, Array(shared.listeners.values))
            }
            if changed { for listener in listeners { listener() } }
        }
    }

    private static func receive(_ socket: Int32, _ watched: inout [IPAddress: WatchedNeighbour]) -> Bool {
        var changed = false
        var bytes = [UInt8](repeating: 0, count: 128)
        for _ in 0..<1_000 {
            var name = sockaddr_storage()
            var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let count = withUnsafeMutablePointer(to: &name) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    recvfrom(socket, &bytes, bytes.count, Int32(MSG_DONTWAIT), $0, &length)
                }
            }
            guard count >= 0 else { break }
            guard let address = withUnsafePointer(to: &name, { IPAddress(socketName: $0) }),
                let packet = try? ControlPacket(bytes[..<count])
            else { continue }
            changed = watched[address]?.receive(packet, now) == true || changed
        }
        return changed
    }

    private static func tick(
        _ watched: inout [IPAddress: WatchedNeighbour], _ generator: inout SystemRandomNumberGenerator
    ) -> Bool {
        var changed = false
        let now = now
        for address in watched.keys {
            if let ends = watched[address]?.ends, ends <= now {
                watched[address] = nil
                continue
            }
            guard let deadline = watched[address]?.deadline, deadline <= now,
                let tick = watched[address]?.session.tick(now: now, using: &generator)
            else { continue }
            for packet in tick.packets { watched[address]?.send(packet, to: address) }
            if let change = tick.change, change.from == .up {
                watched[address]?.become(.silent, change.reason, now)
                changed = true
            }
        }
        return changed
    }

    /// Receives from port 3784 what comes with a hop limit of 255, which no router lets through (RFC 5881 §5).
    private static func listen(_ family: IPFamily) throws -> SharedDescriptor {
        let number = try syscall("socket") {
            socket(Int32(family.socketFamily), Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        }
        let descriptor = SharedDescriptor(Descriptor(owning: number))
        if family == .v6 { SocketOption.set(number, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 1) }
        try SocketFilter(networkByte: family == .v4 ? 8 : 7, is: SingleHop.hopLimit).attach(to: number)
        let any = IPAddress(family, number: 0)
        try any.withSocketName(port: SingleHop.port) { name, length in
            _ = try syscall("bind UDP port \(SingleHop.port) of \(family)") { bind(number, name, length) }
        }
        return descriptor
    }

    /// On the clock that `since` is of.
    public var now: Duration { Self.now }

    private static var now: Duration {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return .seconds(time.tv_sec) + .nanoseconds(time.tv_nsec)
    }
}
