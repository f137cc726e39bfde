import Glibc
import KnetCore
import Synchronization

/// Listens to the packets that rules tell of to one group, on a thread of its own, in the process's network namespace.
public final class PacketListener: Sendable {
    private let group: UInt16
    private let setting: String?
    private let visit: @Sendable (LoggedPacket) -> Void
    private let reason = Mutex<String?>(nil)
    private let isOver = Atomic(false)

    /// - Parameters:
    ///   - setting: the place in the configuration that names the group, where there is one.
    ///   - visit: called for each packet from the listener's thread.
    public init(group: UInt16, setting: String? = nil, visit: @escaping @Sendable (LoggedPacket) -> Void) {
        self.group = group
        self.setting = setting
        self.visit = visit
    }

    /// Why nothing is heard.
    public var fault: String? { reason.withLock { $0 } }

    /// Listens until the task is cancelled, once: a task that is cancelled before it starts has listened.
    public func run() async {
        await withTaskCancellationHandler {
            try? await onOwnThread("knetd-packets") { self.listen() }
        } onCancel: {
            isOver.store(true, ordering: .relaxed)
        }
    }

    /// A group that another program has is asked for again.
    private func listen() {
        while !isOver.load(ordering: .relaxed) {
            do {
                let log = try PacketLog(group: group)
                reason.withLock { $0 = nil }
                while !isOver.load(ordering: .relaxed) { try log.read(milliseconds: 200, visit) }
            } catch {
                let remedy = setting.map { "; \($0) may name another group" } ?? ""
                reason.withLock { $0 = "dropped packets are not told: \(error)\(remedy)" }
                usleep(500_000)
            }
        }
    }
}
