package import Glibc
package import KnetCore

// Addresses in the form in which sockets take and give them.

extension IPAddress {
    /// Calls `body` with the address and port as the kernel wants them.
    package func withSocketName<Result>(
        port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) throws -> Result
    ) rethrows -> Result {
        var storage = sockaddr_storage()
        let length: Int
        switch self {
        case .v4(let number):
            length = MemoryLayout<sockaddr_in>.size
            let name = sockaddr_in(
                sin_family: sa_family_t(AF_INET), sin_port: port.bigEndian, sin_addr: in_addr(s_addr: number.bigEndian),
                sin_zero: (0, 0, 0, 0, 0, 0, 0, 0))
            withUnsafeMutableBytes(of: &storage) { $0.storeBytes(of: name, as: sockaddr_in.self) }
        case .v6(let number):
            length = MemoryLayout<sockaddr_in6>.size
            var name = sockaddr_in6()
            name.sin6_family = sa_family_t(AF_INET6)
            name.sin6_port = port.bigEndian
            withUnsafeMutableBytes(of: &name.sin6_addr) { $0.storeBytes(of: number.bigEndian, as: UInt128.self) }
            withUnsafeMutableBytes(of: &storage) { $0.storeBytes(of: name, as: sockaddr_in6.self) }
        }
        return try withUnsafePointer(to: &storage) {
            try $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { try body($0, socklen_t(length)) }
        }
    }

    /// The address in `storage`; IPv4 inside IPv6 is shown as IPv4. `nil` where it is of another family.
    package init?(socketName storage: UnsafePointer<sockaddr_storage>) {
        let bytes = UnsafeRawPointer(storage)
        switch Int32(storage.pointee.ss_family) {
        case AF_INET: self = .v4(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self)))
        case AF_INET6:
            let number = UInt128(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt128.self))
            // ::ffff:0:0/96 (RFC 4291 §2.5.5.2).
            self = number >> 32 == 0xFFFF ? .v4(UInt32(truncatingIfNeeded: number)) : .v6(number)
        default: return nil
        }
    }
}
