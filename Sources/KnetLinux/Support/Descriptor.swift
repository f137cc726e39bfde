public import Glibc

/// A system call that failed.
public struct SystemError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What was attempted, on what.
    public let operation: String
    public let errno: Int32
    /// What the kernel said beyond the number: netlink's extended ack, nftables' message.
    public let detail: String?

    public init(_ operation: String, errno: Int32, detail: String? = nil) {
        self.operation = operation
        self.errno = errno
        self.detail = detail
    }

    /// With the calling thread's `errno`.
    public init(_ operation: String) { self.init(operation, errno: Glibc.errno) }

    public var description: String {
        var text = [CChar](repeating: 0, count: 128)
        strerror_r(errno, &text, text.count)
        let name = String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        return "\(operation): \(name)" + (detail.map { " (\($0))" } ?? "")
    }
}

/// Calls `body` again while it is interrupted, and throws its `errno` where it returns −1.
@discardableResult
public func syscall<Result: FixedWidthInteger & SignedInteger>(
    _ operation: @autoclosure () -> String, _ body: () -> Result
) throws(SystemError) -> Result {
    while true {
        let result = body()
        if result != -1 { return result }
        if errno != EINTR { throw SystemError(operation()) }
    }
}

/// An open file descriptor that closes itself.
public struct Descriptor: ~Copyable, Sendable {
    public let number: Int32

    /// Takes over an open descriptor.
    public init(owning number: Int32) { self.number = number }

    /// Opens `path`, always with `O_CLOEXEC`.
    public init(opening path: String, _ flags: Int32 = O_RDONLY, mode: mode_t = 0o644) throws(SystemError) {
        number = try syscall("open \(path)") { open(path, flags | O_CLOEXEC, mode) }
    }

    deinit { close(number) }

    /// Gives up ownership: the caller closes.
    public consuming func release() -> Int32 {
        let number = number
        discard self
        return number
    }
}

/// A descriptor that several owners share; it is closed with the last of them.
public final class SharedDescriptor: Sendable {
    private let descriptor: Descriptor
    public var number: Int32 { descriptor.number }

    public init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
}
