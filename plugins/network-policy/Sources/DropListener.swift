import Glibc
import KnetCore
import KnetLinux
import Synchronization

/// A packet that was dropped.
struct Drop: Sendable {
    /// Counts the drops that were told since the start.
    let number: Int
    /// Seconds since 1970.
    let time: Int
    /// Of the rule that dropped it.
    let counter: String
    let packet: LoggedPacket
}

/// Learns from the kernel of dropped packets, and holds the last of them.
final class DropListener: Sendable {
    private struct Contents {
        var drops: [Drop] = []
        var count = 0
        var fault: String?
    }

    private let group: UInt16
    private let contents = Mutex(Contents())
    private let isOver = Atomic(false)

    private static let held = 2_000

    init(group: UInt16) { self.group = group }

    var fault: String? { contents.withLock { $0.fault } }

    /// Those behind the number, the oldest first.
    func drops(after number: Int) -> [Drop] { contents.withLock { $0.drops.filter { $0.number > number } } }

    var count: Int { contents.withLock { $0.count } }

    /// Listens until the task is cancelled, once: a task that is cancelled before it starts has listened.
    func run() async {
        await withTaskCancellationHandler {
            try? await onOwnThread("knetd-drops") { self.listen() }
        } onCancel: {
            isOver.store(true, ordering: .relaxed)
        }
    }

    /// A group that another program has is asked for again.
    private func listen() {
        while !isOver.load(ordering: .relaxed) {
            do {
                let log = try PacketLog(group: group)
                contents.withLock { $0.fault = nil }
                while !isOver.load(ordering: .relaxed) { try log.read(milliseconds: 200) { note($0) } }
            } catch {
                let reason =
                    "dropped packets are not told: \(error); plugins.networkPolicy.logGroup may name another group"
                contents.withLock { $0.fault = reason }
                usleep(500_000)
            }
        }
    }

    private func note(_ packet: LoggedPacket) {
        guard packet.prefix.hasPrefix(DropRecord.prefix) else { return }
        let now = time(nil)
        contents.withLock { contents in
            contents.count += 1
            if contents.drops.count >= Self.held { contents.drops.removeFirst(Self.held / 4) }
            contents.drops.append(
                Drop(
                    number: contents.count, time: now,
                    counter: String(packet.prefix.dropFirst(DropRecord.prefix.count)),
                    packet: packet))
        }
    }
}
