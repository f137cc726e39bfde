import CMnl
import Glibc

/// An open network namespace.
public final class NetworkNamespace: Sendable {
    /// It stays open as long as anybody has it.
    public let shared: SharedDescriptor
    public var number: Int32 { shared.number }

    public init(_ descriptor: consuming Descriptor) { shared = SharedDescriptor(descriptor) }

    /// Opens the namespace that is bound to `path`.
    /// - Throws: `NotANamespace` where `path` is something else.
    public convenience init(path: String) throws {
        // A pipe of that name must not be waited for.
        let descriptor = try Descriptor(opening: path, O_RDONLY | O_NONBLOCK)
        guard Self.isNamespace(descriptor.number) else { throw NotANamespace(path: path) }
        self.init(descriptor)
    }

    /// The calling thread's namespace.
    public static func current() throws -> NetworkNamespace { try NetworkNamespace(path: "/proc/thread-self/ns/net") }

    /// Whether the descriptor is of a network namespace: a file of nsfs whose type is `CLONE_NEWNET`.
    public static func isNamespace(_ descriptor: Int32) -> Bool {
        // NS_GET_NSTYPE, <linux/nsfs.h>: _IO(0xb7, 0x3).
        ioctl(descriptor, 0xB703) == knet_clone_newnet
    }

    /// Runs `body` inside the namespace, on a thread of its own that exits afterwards. What `body` opens (sockets, files
    /// under /proc/sys/net) stays bound to the namespace.
    public func run<Result>(_ body: () throws -> Result) throws -> Result {
        try DedicatedThread.run(name: "knetd-netns") {
            try syscall("setns") { setns(number, knet_clone_newnet) }
            return try body()
        }
    }

    /// The kernel's number for this namespace, never used twice in one boot (`SO_NETNS_COOKIE`, Linux 5.14).
    public func cookie() throws -> UInt64 {
        try run { try Self.currentCookie() }
    }

    /// The same for the calling thread's namespace.
    public static func currentCookie() throws -> UInt64 {
        let probe = Descriptor(
            owning: try syscall("socket") {
                socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            })
        var cookie: UInt64 = 0
        var length = socklen_t(MemoryLayout<UInt64>.size)
        try syscall("getsockopt SO_NETNS_COOKIE") {
            getsockopt(probe.number, SOL_SOCKET, Int32(SO_NETNS_COOKIE), &cookie, &length)
        }
        return cookie
    }

    /// Makes a new namespace without a name; it ends with its last descriptor and process.
    public static func anonymous() throws -> NetworkNamespace {
        try DedicatedThread.run(name: "knetd-netns") {
            try syscall("unshare") { unshare(knet_clone_newnet) }
            return try current()
        }
    }

    /// Makes a new namespace and binds it to `path`, which must not exist.
    public static func create(path: String) throws {
        _ = Descriptor(owning: try Descriptor(opening: path, O_RDONLY | O_CREAT | O_EXCL, mode: 0o444).release())
        do {
            try DedicatedThread.run(name: "knetd-netns") {
                try syscall("unshare") { unshare(knet_clone_newnet) }
                try syscall("mount \(path)") { mount("/proc/thread-self/ns/net", path, "none", knet_ms_bind, nil) }
            }
        } catch {
            unlink(path)
            throw error
        }
    }

    /// Unbinds `path` and removes it; one that is not there is no error.
    public static func remove(path: String) {
        umount2(path, knet_mnt_detach)
        unlink(path)
    }
}

/// A path that is not a network namespace's.
public struct NotANamespace: Error, CustomStringConvertible {
    public let path: String
    public var description: String { "\(path) is not a network namespace" }
}
