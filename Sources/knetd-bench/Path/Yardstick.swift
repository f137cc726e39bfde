import Glibc
import KnetLinux

/// How fast the processor is for what kernels do, at the moment. A core has two threads at times, and of a virtual machine's cores the
/// other thread is somebody else's: while that works, all here takes half as long again, and paths with more code suffer more.
final class Yardstick {
    private let ends: [SharedDescriptor]
    private var measured: [Double] = []
    /// What `measured` says.
    private var limit: Double?

    init() throws {
        var numbers: [Int32] = [-1, -1]
        let kind = Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        _ = try syscall("socketpair") { socketpair(AF_UNIX, kind, 0, &numbers) }
        ends = numbers.map { SharedDescriptor(Descriptor(owning: $0)) }
    }

    /// - Returns: microseconds of messages that the calling thread sends to itself, behind some for which caches are cold.
    func measure() throws -> Double {
        try send(3)
        let start = now()
        try send(12)
        let time = Double(now() - start) / 1000
        measured.append(time)
        limit = nil
        return time
    }

    private func send(_ count: Int) throws {
        let (sender, receiver) = (ends[0].number, ends[1].number)
        var byte: UInt8 = 1
        for _ in 0..<count {
            guard Glibc.send(sender, &byte, 1, 0) == 1, recv(receiver, &byte, 1, 0) == 1 else {
                throw SystemError("yardstick")
            }
        }
    }

    /// Whether nobody else used the core when that was measured: it is near the least of all. Where somebody always did, all is.
    func tellsAlone(_ time: Double) -> Bool {
        let sorted = limit == nil ? measured.sorted() : []
        let limit = self.limit ?? (sorted.isEmpty ? 0 : 1.25 * sorted[sorted.count / 500])
        self.limit = limit
        return time <= limit
    }
}
