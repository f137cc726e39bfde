import CMnl
import Glibc

/// systemd's notification protocol (sd_notify(3)): a datagram to `$NOTIFY_SOCKET`, nothing without one.
public enum Systemd {
    /// - Parameter descriptor: one that goes along.
    public static func notify(_ text: String, descriptor: Int32? = nil) {
        guard let variable = getenv("NOTIFY_SOCKET") else { return }
        let path = String(cString: variable)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard path.utf8.count < MemoryLayout.size(ofValue: address.sun_path) else { return }
        withUnsafeMutableBytes(of: &address.sun_path) {
            $0.copyBytes(from: path.utf8)
            // An abstract socket's name begins with a zero.
            if path.hasPrefix("@") { $0[0] = 0 }
        }
        let length = socklen_t(MemoryLayout<sa_family_t>.size + path.utf8.count)
        let number = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard number >= 0 else { return }
        defer { close(number) }
        let isConnected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(number, $0, length) == 0 }
        }
        let bytes = Array(text.utf8)
        if isConnected { _ = knet_send_with_descriptor(number, bytes, UInt(bytes.count), descriptor ?? -1) }
    }

    public static func monotonicMicroseconds() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1000
    }
}
