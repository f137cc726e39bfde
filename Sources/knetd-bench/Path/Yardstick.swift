import Glibc
import KnetLinux

/// How fast the processor is for what kernels do, at the moment. A core has two threads at times, and of a virtual machine's cores the
/// other thread is somebody else's: while that works, all here takes half as long again, and paths with more code suffer more.
final class Yardstick {
    private let ends: [SharedDescriptor]
    /// That was ever measured.
    private var least = Double.infinity

    init() throws {
        var numbers: [Int32] = [-1, -1]
        _ = try syscall("socketpair") { socketpair(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0, &numbers) }
        ends = numbers.map { SharedDescriptor(Descriptor(owning: $0)) }
    }

    /// - Returns: microseconds of messages that the calling thread sends to itself.
    func measure() throws -> Double {
        let (sender, receiver) = (ends[0].number, ends[1].number)
        var byte: UInt8 = 1
        let start = now()
        for _ in 0..<15 {
            guard send(sender, &byte, 1, 0) == 1, recv(receiver, &byte, 1, 0) == 1 else {
                throw SystemError("yardstick")
            }
        }
        let time = Double(now() - start) / 1000
        least = min(least, time)
        return time
    }

    /// Whether nobody else used the core when that was measured: it is near the least that ever was. Where somebody always did, all is.
    func tellsAlone(_ time: Double) -> Bool { time <= 1.25 * least }
}
