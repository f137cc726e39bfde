package import Glibc
package import KnetCore
package import KnetLinux

/// Blocking sockets with time limits. A socket belongs to the network namespace of the thread that opened it, whoever
/// uses it later.
package enum Sockets {
    package static func open(_ family: IPFamily, _ type: __socket_type, _ transport: Int = 0, milliseconds: Int) throws
        -> Descriptor
    {
        let descriptor = Descriptor(
            owning: try syscall("socket") {
                socket(
                    Int32(family.socketFamily), Int32(type.rawValue) | Int32(SOCK_CLOEXEC.rawValue), Int32(transport))
            })
        limit(descriptor.number, milliseconds: milliseconds)
        return descriptor
    }

    package static func limit(_ descriptor: Int32, milliseconds: Int) {
        var time = timeval(tv_sec: milliseconds / 1000, tv_usec: milliseconds % 1000 * 1000)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            setsockopt(descriptor, SOL_SOCKET, option, &time, socklen_t(MemoryLayout<timeval>.size))
        }
    }

    package static func set(_ descriptor: Int32, _ level: Int, _ option: Int32, _ value: Int32) {
        var value = value
        setsockopt(descriptor, Int32(level), option, &value, socklen_t(MemoryLayout<Int32>.size))
    }

    /// Calls `body` with the address as the kernel wants it.
    package static func with<Result>(
        _ address: IPAddress, port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) throws -> Result
    ) rethrows -> Result {
        var storage = sockaddr_storage()
        let length: Int
        switch address {
        case .v4(let number):
            length = MemoryLayout<sockaddr_in>.size
            withUnsafeMutableBytes(of: &storage) {
                $0.storeBytes(
                    of: sockaddr_in(
                        sin_family: sa_family_t(AF_INET), sin_port: port.bigEndian,
                        sin_addr: in_addr(s_addr: number.bigEndian), sin_zero: (0, 0, 0, 0, 0, 0, 0, 0)),
                    as: sockaddr_in.self)
            }
        case .v6:
            length = MemoryLayout<sockaddr_in6>.size
            var six = sockaddr_in6()
            six.sin6_family = sa_family_t(AF_INET6)
            six.sin6_port = port.bigEndian
            withUnsafeMutableBytes(of: &six.sin6_addr) { $0.copyBytes(from: address.bytes) }
            withUnsafeMutableBytes(of: &storage) { $0.storeBytes(of: six, as: sockaddr_in6.self) }
        }
        return try withUnsafePointer(to: &storage) {
            try $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { try body($0, socklen_t(length)) }
        }
    }

    package static func connect(_ descriptor: Int32, to address: IPAddress, port: UInt16) throws {
        try with(address, port: port) { pointer, length in
            _ = try syscall("connect to \(address)") { Glibc.connect(descriptor, pointer, length) }
        }
    }

    /// The address in `storage`; IPv4 inside IPv6 is shown as IPv4.
    package static func address(_ storage: sockaddr_storage) -> IPAddress? {
        withUnsafeBytes(of: storage) { bytes in
            if Int32(storage.ss_family) == AF_INET { return IPAddress(bytes: bytes[4..<8]) }
            let six = bytes[8..<24]
            let isMapped = six.prefix(12).elementsEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF])
            return IPAddress(bytes: isMapped ? six.suffix(4) : six)
        }
    }

    package static func sendAll(_ descriptor: Int32, _ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            sent += try syscall("send") {
                bytes.withUnsafeBytes {
                    guard let start = $0.baseAddress else { return 0 }
                    return send(descriptor, start + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
                }
            }
        }
    }

    package static func receiveAll(_ descriptor: Int32) throws -> [UInt8] {
        var all: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = try syscall("receive") { recv(descriptor, &buffer, buffer.count, 0) }
            if count == 0 { return all }
            all += buffer[..<count]
        }
    }
}
