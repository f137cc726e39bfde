import Glibc

/// Kernel settings under /proc/sys, of the calling thread's network namespace where they are per namespace.
public enum Sysctl {
    /// Runtimes mount a container's own /proc/sys read-only. Its manifest mounts the node's /proc/sys/net beside it and says
    /// where (`KNETD_PROC_SYS_NET`): no other setting of the kernel's can be written there.
    private static let network = getenv("KNETD_PROC_SYS_NET").map { String(cString: $0) } ?? "/proc/sys/net"

    /// - Parameter name: as `read` has it.
    static func path(_ name: String) -> String {
        name.hasPrefix("net/") ? network + name.dropFirst("net".count) : "/proc/sys/" + name
    }

    /// - Parameter name: with slashes, such as `net/ipv4/ip_forward`; interface names may have dots.
    public static func read(_ name: String) throws(SystemError) -> String {
        let file = try Descriptor(opening: path(name))
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = try syscall("read sysctl \(name)") { Glibc.read(file.number, &bytes, bytes.count) }
        return String(decoding: bytes[..<count], as: UTF8.self).split(separator: "\n").first.map(String.init) ?? ""
    }

    public static func write(_ name: String, _ value: String) throws(SystemError) {
        let file = try Descriptor(opening: path(name), O_WRONLY)
        let bytes = Array(value.utf8)
        try KernelWrites.during { () throws(SystemError) in
            try syscall("write sysctl \(name)=\(value)") { Glibc.write(file.number, bytes, bytes.count) }
        }
    }
}
