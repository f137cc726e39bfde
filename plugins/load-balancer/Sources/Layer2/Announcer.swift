import Glibc
import KnetCore
import KnetLinux
import Synchronization

/// Answers on links for addresses that no interface has, and tells everybody there when it begins to.
final class Announcer: Sendable {
    struct Figures: Hashable {
        var requests = 0
        var answers = 0
        var gratuitous = 0
    }

    private struct Shared {
        var interfaces: [String: AnsweringLink] = [:]
        var owned: Set<IPAddress> = []
        /// When an address is to be told of again.
        var due: [(at: ContinuousClock.Instant, address: IPAddress)] = []
        var figures: [IPAddress: Figures] = [:]
        var fault: String?
        var isRunning = false
        var isStopped = false
    }

    private let shared = Mutex(Shared())
    private let waker: Waker

    /// A host may be asleep, or a switch still learning.
    private static let repetitions: [Duration] = [
        .zero, .milliseconds(200), .seconds(1), .seconds(2), .seconds(4),
    ]

    init() throws(SystemError) { waker = try Waker() }

    var fault: String? { shared.withLock { $0.fault } }
    var figures: [IPAddress: Figures] { shared.withLock { $0.figures } }
    var interfaces: [String] { shared.withLock { $0.interfaces.keys.sorted() } }

    /// Answers on these links, as the kernel has them now.
    /// - Throws: where the kernel's links cannot be read; then all is as it was.
    func use(_ names: Set<String>) throws {
        let found = try NetlinkSocket().links().filter { names.contains($0.name) && $0.isUp }
        shared.withLock { shared in
            for (name, interface) in shared.interfaces where !found.contains(where: { interface.isOn($0) }) {
                shared.interfaces[name] = nil
            }
            shared.fault = nil
            for link in found where shared.interfaces[link.name] == nil {
                do {
                    shared.interfaces[link.name] = try AnsweringLink(link)
                    Self.plan(shared.owned, &shared)
                } catch { shared.fault = "\(link.name): \(error)" }
            }
            Self.join(&shared)
            let missing = names.subtracting(shared.interfaces.keys).sorted()
            if shared.fault == nil, !missing.isEmpty {
                shared.fault = "no interface \(missing.joined(separator: ", ")) that is up"
            }
        }
        startOrWake()
    }

    private static func join(_ shared: inout Shared) {
        for name in shared.interfaces.keys where shared.interfaces[name]?.join(shared.owned) == false {
            shared.fault = "\(name): some groups of IPv6 cannot be joined, see net.core.optmem_max"
        }
    }

    /// Answers for these addresses.
    /// - Parameter again: tells of all of them, as when somebody else may have answered meanwhile.
    func answer(for addresses: Set<IPAddress>, again: Bool) {
        let isNews = shared.withLock { shared in
            guard again || shared.owned != addresses else { return false }
            Self.plan(again ? addresses : addresses.subtracting(shared.owned), &shared)
            shared.owned = addresses
            Self.join(&shared)
            return true
        }
        if isNews { startOrWake() }
    }

    func stop() {
        shared.withLock { $0.isStopped = true }
        waker.call()
    }

    private static func plan(_ addresses: Set<IPAddress>, _ shared: inout Shared) {
        let now = ContinuousClock.now
        shared.due.removeAll { addresses.contains($0.address) }
        for pause in repetitions { shared.due += addresses.map { (now + pause, $0) } }
    }

    private func startOrWake() {
        let mustStart = shared.withLock { shared in
            guard !shared.isRunning, !shared.isStopped, !shared.interfaces.isEmpty else { return false }
            shared.isRunning = true
            return true
        }
        guard mustStart else { return waker.call() }
        do {
            try DedicatedThread.start(name: "knetd-layer2") { [self] in serve() }
        } catch {
            shared.withLock {
                $0.fault = "\(error)"
                $0.isRunning = false
            }
        }
    }

    // MARK: The thread

    private func serve() {
        var frame = [UInt8](repeating: 0, count: 256)
        while true {
            let next = shared.withLock { shared -> (sockets: [SharedDescriptor], wait: Duration)? in
                if shared.isStopped { return nil }
                Self.tell(&shared)
                let due = shared.due.map(\.at).min().map { $0 - .now } ?? .seconds(60)
                return (shared.interfaces.values.map(\.socket), due)
            }
            guard let next else { return }
            var polled = (next.sockets.map(\.number) + [waker.number]).map {
                pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
            }
            poll(&polled, nfds_t(polled.count), Int32(clamping: max(1, Int(next.wait / .milliseconds(1)))))
            waker.rest()
            for (socket, entry) in zip(next.sockets, polled) where entry.revents != 0 { hear(socket.number, &frame) }
        }
    }

    private static func tell(_ shared: inout Shared) {
        let now = ContinuousClock.now
        let due = shared.due.filter { $0.at <= now }
        shared.due.removeAll { $0.at <= now }
        for (_, address) in due where shared.owned.contains(address) {
            for interface in shared.interfaces.values {
                for frame in LinkFrames.gratuitous(address, interface.mac) { interface.send(frame) }
            }
            shared.figures[address, default: .init()].gratuitous += 1
        }
    }

    private func hear(_ socket: Int32, _ frame: inout [UInt8]) {
        for _ in 0..<256 {
            let count = recv(socket, &frame, frame.count, Int32(MSG_DONTWAIT))
            guard count > 0 else { return }
            guard let question = LinkQuestion(Array(frame[..<count])) else { continue }
            shared.withLock { shared in
                // What this node sends itself is heard too.
                guard shared.owned.contains(question.target),
                    let interface = shared.interfaces.values.first(where: { $0.socket.number == socket }),
                    question.askerMAC != interface.mac
                else { return }
                shared.figures[question.target, default: .init()].requests += 1
                interface.send(question.answer(from: interface.mac))
                shared.figures[question.target, default: .init()].answers += 1
            }
        }
    }
}
