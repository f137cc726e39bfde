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

/// The last of the packets that were dropped.
final class Drops: Sendable {
    private struct Contents {
        var drops: [Drop] = []
        var count = 0
    }

    private let contents = Mutex(Contents())

    private static let held = 2_000

    /// Those behind the number, the oldest first.
    func drops(after number: Int) -> [Drop] { contents.withLock { $0.drops.filter { $0.number > number } } }

    var count: Int { contents.withLock { $0.count } }

    /// - Returns: `nil` where no rule of ours told of the packet.
    func note(_ packet: LoggedPacket) -> Drop? {
        guard packet.prefix.hasPrefix(DropRecord.prefix) else { return nil }
        let now = time(nil)
        return contents.withLock { contents in
            contents.count += 1
            if contents.drops.count >= Self.held { contents.drops.removeFirst(Self.held / 4) }
            let drop = Drop(
                number: contents.count, time: now, counter: String(packet.prefix.dropFirst(DropRecord.prefix.count)),
                packet: packet)
            contents.drops.append(drop)
            return drop
        }
    }
}
