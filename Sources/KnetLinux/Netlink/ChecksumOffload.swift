import CMnl
import Glibc
public import KnetCore

/// Who computes the checksums of what leaves by an interface: the hardware beneath, or the kernel
/// (`ethtool -K … tx-checksum-ip-generic`; ETHTOOL_GTXCSUM and ETHTOOL_STXCSUM of <linux/ethtool.h>).
public enum ChecksumOffload {
    /// - Throws: where the interface is not there or cannot tell.
    public static func isOn(_ link: String) throws(SystemError) -> Bool {
        try ask(link, command: 0x16, value: 0) != 0
    }

    public static func set(_ link: String, on isOn: Bool) throws(SystemError) {
        try KernelWrites.during { () throws(SystemError) in
            _ = try ask(link, command: 0x17, value: isOn ? 1 : 0)
        }
    }

    private static func ask(_ link: String, command: UInt32, value: UInt32) throws(SystemError) -> UInt32 {
        let socket = Descriptor(
            owning: try syscall("socket") {
                Glibc.socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            })
        var answer = value
        try syscall("checksum offload of \(link)") { Int(knet_ethtool_value(socket.number, link, command, &answer)) }
        return answer
    }

    // MARK: Trial

    /// What a trial found.
    public enum Verdict: Sendable {
        /// Checksums that the hardware was to compute are good where they arrive.
        case works
        /// Only packets without a checksum arrive.
        case faulty
        /// Nothing arrives: the other side is away, or silent.
        case unknown
    }

    /// Sends datagrams to a port of `target` where nobody listens: each that arrives whole is answered by ICMP, and each whose
    /// checksum is wrong is dropped without a word. Those without a checksum (RFC 768) tell whether `target` answers at all.
    /// Takes up to two seconds, which it blocks.
    /// - Parameter target: of IPv4; IPv6 knows no datagram without a checksum.
    public static func trial(of target: IPAddress) -> Verdict {
        if isAnswered(target, hasChecksum: true) { return .works }
        return isAnswered(target, hasChecksum: false)
            ? (isAnswered(target, hasChecksum: true) ? .works : .faulty) : .unknown
    }

    /// Where traceroute begins; hardly ever in use.
    private static let closedPort: UInt16 = 33_434

    private static func isAnswered(_ target: IPAddress, hasChecksum: Bool) -> Bool {
        guard case .v4(let number) = target else { return false }
        let opened = Glibc.socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard opened >= 0 else { return false }
        let socket = Descriptor(owning: opened)
        var one: Int32 = 1
        if !hasChecksum {
            setsockopt(socket.number, SOL_SOCKET, SO_NO_CHECK, &one, socklen_t(MemoryLayout<Int32>.size))
        }
        var patience = timeval(tv_sec: 0, tv_usec: 300_000)
        setsockopt(socket.number, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = closedPort.bigEndian
        address.sin_addr.s_addr = number.bigEndian
        let status = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(socket.number, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard status == 0 else { return false }
        for _ in 0..<2 {
            var byte: UInt8 = 0
            // The refusal of the one before may be told here.
            if send(socket.number, &byte, 1, 0) < 0, errno == ECONNREFUSED { return true }
            if recv(socket.number, &byte, 1, 0) >= 0 || errno == ECONNREFUSED { return true }
        }
        return false
    }
}
