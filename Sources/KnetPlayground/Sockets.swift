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
        try address.withSocketName(port: port, body)
    }

    package static func connect(_ descriptor: Int32, to address: IPAddress, port: UInt16) throws {
        try with(address, port: port) { pointer, length in
            _ = try syscall("connect to \(address)") { Glibc.connect(descriptor, pointer, length) }
        }
    }

    /// The address in `storage`; IPv4 inside IPv6 is shown as IPv4.
    package static func address(_ storage: sockaddr_storage) -> IPAddress? {
        withUnsafePointer(to: storage) { IPAddress(socketName: $0) }
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
