import Glibc

/// How many descriptors the process may have.
public enum OpenFiles {
    /// Raises the limit, which service managers set to 1,024 for the sake of select(2) (systemd.exec(5)), as far as the
    /// kernel allows, and not beyond `count`.
    public static func allow(_ count: UInt) {
        var limits = rlimit()
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        guard getrlimit(resource, &limits) == 0, limits.rlim_cur < count else { return }
        limits.rlim_cur = min(limits.rlim_max, count)
        _ = setrlimit(resource, &limits)
    }
}
