import CMnl
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Synchronization
import TestSupport

/// Asks for an address at a steady rate, and counts what came back.
final class DNSLoad: Sendable {
    struct Counts {
        var asked = 0
        var right = 0
        var wrong = 0
        var unanswered: Int { asked - right - wrong }
    }

    private let counts = Mutex(Counts())
    private let isStopped = Atomic(false)
    private let isDone = Atomic(false)

    /// - Parameters:
    ///   - rate: queries a second.
    ///   - expected: the address that each answer must end with.
    init(_ name: String, at server: IPAddress, rate: Int, expected: IPAddress, in namespace: NetworkNamespace) throws {
        let socket = try namespace.run { () throws -> SharedDescriptor in
            let socket = SharedDescriptor(try Sockets.open(server.family, SOCK_DGRAM, milliseconds: 100))
            try Sockets.connect(socket.number, to: server, port: 53)
            return socket
        }
        Sockets.set(socket.number, Int(SOL_SOCKET), SO_RCVBUFFORCE, 8 << 20)
        let rest: [UInt8] = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0] + name.labels + [0, 1, 0, 1]
        try DedicatedThread.start(name: "dns-load-send") { [self] in
            let start = ContinuousClock.now
            var number = 0
            while !isStopped.load(ordering: .relaxed) {
                while ContinuousClock.now - start < .microseconds(number * 1_000_000 / rate) { usleep(100) }
                let query = [UInt8(truncatingIfNeeded: number >> 8), UInt8(truncatingIfNeeded: number)] + rest
                if send(socket.number, query, query.count, 0) == query.count { counts.withLock { $0.asked += 1 } }
                number += 1
            }
        }
        try DedicatedThread.start(name: "dns-load-receive") { [self] in
            var bytes = [UInt8](repeating: 0, count: 2_048)
            var quiet = 0
            // The last answers may take as long as a client waits.
            while quiet < 20 {
                let count = recv(socket.number, &bytes, bytes.count, 0)
                guard count > 0 else {
                    quiet = isStopped.load(ordering: .relaxed) ? quiet + 1 : 0
                    continue
                }
                let isRight = bytes[3] & 15 == 0 && bytes[7] == 1 && Array(bytes[count - 4..<count]) == expected.bytes
                counts.withLock { if isRight { $0.right += 1 } else { $0.wrong += 1 } }
            }
            isDone.store(true, ordering: .releasing)
        }
    }

    /// Stops asking, and waits for the last answers.
    func end() -> Counts {
        isStopped.store(true, ordering: .relaxed)
        while !isDone.load(ordering: .acquiring) { usleep(10_000) }
        return counts.withLock { $0 }
    }
}
