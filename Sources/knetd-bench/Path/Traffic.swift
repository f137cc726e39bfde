import Glibc
import KnetLinux

extension Load {
    /// What a stream gave.
    struct Throughput {
        /// Gbit/s that arrived.
        let rate: Double
        /// Milliseconds of work on all processors, of whatever kind, for each Gbit.
        let cost: Double
    }

    /// Bytes of one write or read of a stream.
    private static let block = 1 << 17

    /// One stream from the client to the server.
    func stream(seconds: Double) throws -> Throughput {
        let received = Mutexed(0)
        let busy = try ProcessorTime.busy()
        let start = try run { listener in
            guard let connection = try Self.accept(listener) else { return }
            received.set(try Self.drain(connection.number))
        } client: { load in
            let connection = try load.connect()
            let start = now()
            try Self.fill(connection.number, until: start + Int64(seconds * 1e9))
            return start
        }
        let bits = Double(received.get()) * 8
        let elapsed = Double(now() - start)
        guard bits > 0 else { throw SystemError("stream", errno: ENODATA, detail: "nothing arrived") }
        return Throughput(
            rate: bits / elapsed, cost: (try ProcessorTime.busy() - busy) * 1000 / (bits / 1e9))
    }

    private static func fill(_ socket: Int32, until deadline: Int64) throws {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: block, alignment: 64)
        defer { buffer.deallocate() }
        buffer.initializeMemory(as: UInt8.self, repeating: 0x6B)
        while now() < deadline {
            try syscall("send") { send(socket, buffer.baseAddress, buffer.count, Int32(MSG_NOSIGNAL)) }
        }
    }

    /// - Returns: bytes until the other side's end.
    private static func drain(_ socket: Int32) throws -> Int {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: block, alignment: 64)
        defer { buffer.deallocate() }
        var total = 0
        while true {
            let count = try syscall("receive") { recv(socket, buffer.baseAddress, buffer.count, 0) }
            if count == 0 { return total }
            total += count
        }
    }

    /// A connection, one byte to the server and back, and its end, again and again. The client closes first, and its pod keeps
    /// no TIME_WAIT.
    /// - Returns: microseconds of each.
    func connections(seconds: Double) throws -> [Double] {
        try run { listener in
            while let connection = try Self.accept(listener) { try Self.echo(connection.number) }
        } client: { load in
            try Self.repeated(seconds) {
                let connection = try load.connect()
                try Conversation.exchange(connection.number)
            }
        }
    }

    /// Sends back every byte until the other side's end.
    static func echo(_ socket: Int32) throws {
        var byte: UInt8 = 0
        while true {
            let count = recv(socket, &byte, 1, 0)
            if count == 0 { return }
            guard count == 1, send(socket, &byte, 1, Int32(MSG_NOSIGNAL)) == 1 else { throw SystemError("echo") }
        }
    }

    /// Measurements that are kept.
    private static let most = 1 << 20

    /// - Returns: microseconds of each call of `body`.
    static func repeated(_ seconds: Double, _ body: () throws -> Void) throws -> [Double] {
        var times: [Double] = []
        // Room is made beforehand; nothing here takes less than a microsecond.
        times.reserveCapacity(min(most, Int(seconds * 1e6)))
        var last = now()
        let deadline = last + Int64(seconds * 1e9)
        repeat {
            try body()
            let time = now()
            times.append(Double(time - last) / 1000)
            last = time
        } while last < deadline && times.count < most
        return times
    }
}

/// How busy the machine is, by /proc/stat (proc_stat(5)).
enum ProcessorTime {
    /// Seconds that all processors together spent on anything, interrupts too, since the machine started.
    static func busy() throws -> Double {
        let line = try TextFile.read("/proc/stat").split(separator: "\n").first ?? ""
        let ticks = line.split(separator: " ").dropFirst().compactMap { Double($0) }
        // user, nice, system, (idle, iowait,) irq, softirq; time that a hypervisor took is not ours.
        guard ticks.count >= 7 else { throw SystemError("read /proc/stat", errno: EPROTO) }
        return (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / Double(sysconf(Int32(_SC_CLK_TCK)))
    }

    /// User and system time of a process (fields 14 and 15 of /proc/PID/stat, in ticks, proc(5)).
    static func milliseconds(of process: Int32) throws -> Double {
        let text = try TextFile.read("/proc/\(process)/stat")
        // The name, in brackets, may hold anything.
        let fields = text.split(separator: ")").last?.split(separator: " ") ?? []
        guard fields.count > 12, let user = Double(fields[11]), let system = Double(fields[12]) else { return 0 }
        return (user + system) * 1000 / Double(sysconf(Int32(_SC_CLK_TCK)))
    }
}
