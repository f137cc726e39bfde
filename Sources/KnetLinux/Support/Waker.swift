import CMnl
import Glibc

/// A descriptor that becomes readable when it is called: it wakes a thread that polls.
package final class Waker: Sendable {
    private let descriptor: SharedDescriptor

    package init() throws(SystemError) {
        let number = try syscall("eventfd") { eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK)) }
        descriptor = SharedDescriptor(Descriptor(owning: number))
    }

    package var number: Int32 { descriptor.number }

    package func call() {
        var one: UInt64 = 1
        write(number, &one, MemoryLayout<UInt64>.size)
    }

    /// Until the next call it is not readable.
    package func rest() {
        var count: UInt64 = 0
        read(number, &count, MemoryLayout<UInt64>.size)
    }
}
