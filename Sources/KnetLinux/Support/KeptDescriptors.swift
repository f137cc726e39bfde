import Glibc
import Synchronization

/// Descriptors that outlast what uses them: a reload of the configuration, and under systemd the process itself, which gives them to
/// the next one (sd_pid_notify_with_fds(3), `FileDescriptorStoreMax=`).
public final class KeptDescriptors: Sendable {
    private let kept: Mutex<[String: SharedDescriptor]>

    /// The first descriptor that systemd passes (sd_listen_fds(3)).
    private static let first: Int32 = 3

    /// Takes what an earlier process left. To be called once, before children are started.
    public init() {
        var kept: [String: SharedDescriptor] = [:]
        if let count = getenv("LISTEN_FDS").flatMap({ Int32(String(cString: $0)) }),
            getenv("LISTEN_PID").map({ String(cString: $0) }) == "\(getpid())"
        {
            let names = getenv("LISTEN_FDNAMES").map { String(cString: $0) } ?? ""
            for (number, name) in zip(Self.first..<Self.first + count, names.split(separator: ":")) {
                _ = fcntl(number, F_SETFD, FD_CLOEXEC)
                kept[String(name)] = SharedDescriptor(Descriptor(owning: number))
            }
        }
        for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] { unsetenv(name) }
        self.kept = Mutex(kept)
    }

    /// What is kept under the name.
    public subscript(name: String) -> SharedDescriptor? { kept.withLock { $0[name] } }

    /// The names that begin so.
    public func names(prefix: String) -> [String] { kept.withLock { $0.keys.filter { $0.hasPrefix(prefix) } } }

    /// - Parameter name: without colons.
    public func keep(_ descriptor: SharedDescriptor, as name: String) {
        kept.withLock { $0[name] = descriptor }
        Systemd.notify("FDSTORE=1\nFDPOLL=0\nFDNAME=\(name)", descriptor: descriptor.number)
    }

    public func drop(_ name: String) {
        guard kept.withLock({ $0.removeValue(forKey: name) }) != nil else { return }
        Systemd.notify("FDSTOREREMOVE=1\nFDNAME=\(name)")
    }
}
