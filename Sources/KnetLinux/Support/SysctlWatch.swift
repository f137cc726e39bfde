import CMnl
import Glibc

/// Tells when somebody writes a setting under /proc/sys of which netlink does not tell. The thread lives as long as the
/// process. Writers that see /proc by another mount of another PID namespace are not noticed.
public final class SysctlWatch: Sendable {
    private let descriptor: SharedDescriptor

    public init() throws {
        descriptor = SharedDescriptor(
            Descriptor(owning: try syscall("inotify") { inotify_init1(Int32(IN_CLOEXEC)) }))
    }

    /// - Parameter notify: called from the watch's thread; it must not block.
    public func start(notify: @escaping @Sendable () -> Void) throws {
        try DedicatedThread.start(name: "knetd-sysctl") { [descriptor] in
            var buffer = [UInt8](repeating: 0, count: 4096)
            while true {
                let count = read(descriptor.number, &buffer, buffer.count)
                if count < 0, errno != EINTR { return }
                let event = buffer.withUnsafeBytes { $0.loadUnaligned(as: inotify_event.self) }
                // A setting that goes with its interface ends its watch, which is no news.
                if count > 0, event.mask & UInt32(IN_MODIFY) != 0 { notify() }
            }
        }
    }

    /// Watches a setting, such as `net/ipv4/conf/eth0/forwarding`; once more is no error, nor is one that is not there.
    public func watch(_ name: String) {
        inotify_add_watch(descriptor.number, Sysctl.path(name), UInt32(IN_MODIFY))
    }
}
