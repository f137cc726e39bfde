package import CMnl
import Glibc

/// A program of classic BPF that decides which packets a socket gets (linux/filter.h).
package struct SocketFilter {
    private var program: [sock_filter] = []

    package init(_ program: [sock_filter]) { self.program = program }

    /// Those of which the byte at `offset` from the network header is `value`.
    package init(networkByte offset: Int, is value: UInt8) {
        self.init([
            // SKF_NET_OFF
            Self.step(BPF_LD | BPF_B | BPF_ABS, UInt32(bitPattern: -0x100000 + Int32(offset))),
            Self.step(BPF_JMP | BPF_JEQ | BPF_K, UInt32(value), otherwise: 1),
            Self.step(BPF_RET, .max), Self.step(BPF_RET, 0),
        ])
    }

    package static func step(_ code: Int32, _ value: UInt32, then: UInt8 = 0, otherwise: UInt8 = 0) -> sock_filter {
        sock_filter(code: UInt16(code), jt: then, jf: otherwise, k: value)
    }

    package func attach(to descriptor: Int32) throws(SystemError) {
        var steps = program
        var failure: SystemError?
        steps.withUnsafeMutableBufferPointer { steps in
            var program = sock_fprog(len: UInt16(steps.count), filter: steps.baseAddress)
            let size = socklen_t(MemoryLayout<sock_fprog>.size)
            if setsockopt(descriptor, SOL_SOCKET, SO_ATTACH_FILTER, &program, size) != 0 {
                failure = SystemError("attach socket filter")
            }
        }
        if let failure { throw failure }
    }
}
