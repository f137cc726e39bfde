import CMnl
import FoundationEssentials
import Glibc
import KnetCore

/// A mount as this process sees it: /proc/self/mountinfo, proc_pid_mountinfo(5).
public struct Mount: Equatable, Sendable {
    /// What of the filesystem is mounted; it begins with `/..` where that is above this process's root of cgroups.
    public let root: String
    public let path: String
    /// As mount(8) has it.
    public let type: String

    /// All of them, in the order in which they were made.
    public static func all() -> [Mount] {
        // Files of /proc have no size, and are read a page at a time.
        parse((try? contents(ofFile: "/proc/self/mountinfo")).map { String(decoding: $0, as: UTF8.self) } ?? "")
    }

    static func parse(_ text: String) -> [Mount] {
        text.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ").map(String.init)
            // Behind a field that is a dash alone, after any number of optional ones.
            guard fields.count > 6, let dash = fields[6...].firstIndex(of: "-"), dash + 1 < fields.count else {
                return nil
            }
            return Mount(root: fields[3], path: fields[4], type: fields[dash + 1])
        }
    }

    /// Mounts a filesystem that has no device.
    public static func add(_ type: String, at path: String, options: String = "") throws(SystemError) {
        try syscall("mount \(type) at \(path)") { mount("knetd", path, type, 0, options) }
    }

    /// Takes a mount away, now or when the last file there is closed.
    public static func remove(_ path: String) { umount2(path, knet_mnt_detach) }
}
