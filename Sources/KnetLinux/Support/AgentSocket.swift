import CMnl
import Dispatch
public import FoundationEssentials
import Glibc

/// The stream socket between the daemon and the executions of the CNI mode: one request, its end, one reply, its end. A
/// descriptor may come with the request.
public enum AgentSocket {
    /// Why a request got no reply.
    public enum Fault: Error, CustomStringConvertible {
        case absent(String, SystemError)
        case tooSlow(seconds: Int)
        case broken(SystemError)

        public var description: String {
            switch self {
            case .absent(let path, let error): "no daemon answers at \(path): \(error)"
            case .tooSlow(let seconds): "the daemon did not answer within \(seconds) s"
            case .broken(let error): "talking to the daemon: \(error)"
            }
        }
    }

    /// Sends `request` and waits for the reply.
    /// - Parameter descriptor: goes with the request; stays the caller's.
    public static func ask(_ path: String, _ request: Data, descriptor: Int32?, seconds: Int) throws(Fault) -> Data {
        let connection: SharedDescriptor
        do {
            connection = try connected(to: path, seconds: seconds)
        } catch let error where error.errno == EAGAIN {
            throw .tooSlow(seconds: seconds)
        } catch {
            throw .absent(path, error)
        }
        do {
            try send(connection.number, request, descriptor: descriptor)
            shutdown(connection.number, Int32(SHUT_WR))
            var reply = Data()
            _ = try receive(connection.number, into: &reply, limit: .max)
            return reply
        } catch let error where error.errno == EAGAIN {
            throw .tooSlow(seconds: seconds)
        } catch {
            throw .broken(error)
        }
    }

    private static func connected(to path: String, seconds: Int) throws(SystemError) -> SharedDescriptor {
        let connection = SharedDescriptor(try makeSocket())
        setTimeout(connection.number, seconds: seconds)
        try withAddress(path) { address, length throws(SystemError) in
            try syscall("connect \(path)") { connect(connection.number, address, length) }
        }
        return connection
    }

    static func makeSocket() throws(SystemError) -> Descriptor {
        Descriptor(
            owning: try syscall("socket") {
                socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            })
    }

    @discardableResult
    static func withAddress<Result>(
        _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) throws(SystemError) -> Result
    ) throws(SystemError) -> Result {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let room = MemoryLayout.size(ofValue: address.sun_path) - 1
        guard path.utf8.count <= room else {
            throw SystemError("socket \(path)", errno: ENAMETOOLONG, detail: "the kernel allows \(room) bytes")
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        var outcome: Swift.Result<Result, SystemError>?
        withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                do throws(SystemError) {
                    outcome = .success(try body(pointer, socklen_t(MemoryLayout<sockaddr_un>.size)))
                } catch {
                    outcome = .failure(error)
                }
            }
        }
        guard let outcome else { throw SystemError("socket \(path)", errno: EINVAL) }
        return try outcome.get()
    }

    static func setTimeout(_ socket: Int32, seconds: Int) {
        var time = timeval(tv_sec: seconds, tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            setsockopt(socket, SOL_SOCKET, option, &time, socklen_t(MemoryLayout<timeval>.size))
        }
    }

    static func send(_ socket: Int32, _ data: Data, descriptor: Int32? = nil) throws(SystemError) {
        let bytes = [UInt8](data)
        var sent = 0
        while sent < bytes.count {
            let passed = sent == 0 ? descriptor ?? -1 : -1
            sent += try syscall("send") {
                bytes.withUnsafeBytes {
                    knet_send_with_descriptor(
                        socket, $0.baseAddress.map { $0 + sent }, UInt(bytes.count - sent), passed)
                }
            }
        }
    }

    /// Reads until the other side's end.
    /// - Returns: a descriptor that came along.
    /// - Parameter deadline: by which the end must have come, however steadily bytes come.
    static func receive(
        _ socket: Int32, into data: inout Data, limit: Int, deadline: ContinuousClock.Instant? = nil
    ) throws(SystemError) -> Int32? {
        var descriptor: Int32 = -1
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            var came: Int32 = -1
            let count = try syscall("receive") {
                knet_receive_with_descriptor(socket, &buffer, UInt(buffer.count), &came)
            }
            if came >= 0 {
                if descriptor >= 0 { close(descriptor) }
                descriptor = came
            }
            if count == 0 { return descriptor >= 0 ? descriptor : nil }
            data.append(contentsOf: buffer[..<count])
            let isLate = deadline.map { ContinuousClock.now > $0 } ?? false
            if data.count > limit || isLate {
                if descriptor >= 0 { close(descriptor) }
                throw SystemError(
                    "receive", errno: EMSGSIZE, detail: isLate ? "too slowly" : "more than \(limit) bytes")
            }
        }
    }
}

/// The daemon's side of the socket. Each connection has a thread of its own while it lasts; a client that sends too
/// slowly, too much or nothing at all costs that thread for a few seconds and nothing else.
public final class AgentServer: Sendable {
    public typealias Handler = @Sendable (Data, NetworkNamespace?) async -> Data

    private let path: String
    private let listener: SharedDescriptor
    private let handler: Handler
    private let places: DispatchSemaphore
    private let limit: Int

    /// Seconds that a client has for sending its request or taking its reply.
    private static let clientSeconds = 5

    /// Listens at `path`, for root alone. A socket that a dead daemon left there is replaced.
    /// - Parameters:
    ///   - limit: bytes of a request.
    ///   - connections: at the same time.
    public init(path: String, limit: Int, connections: Int = 256, handler: @escaping Handler) throws(SystemError) {
        self.path = path
        self.limit = limit
        self.handler = handler
        places = DispatchSemaphore(value: connections)
        let socket = try AgentSocket.makeSocket()
        unlink(path)
        try AgentSocket.withAddress(path) { address, length throws(SystemError) in
            try syscall("bind \(path)") { bind(socket.number, address, length) }
        }
        // Nobody can connect between these two: the socket does not listen yet.
        try syscall("chmod \(path)") { chmod(path, 0o600) }
        try syscall("listen") { listen(socket.number, 128) }
        listener = SharedDescriptor(socket)
    }

    /// Starts to accept.
    public func start() throws(SystemError) {
        try DedicatedThread.start(name: "knetd-accept") { [self] in
            while true {
                places.wait()
                let number = accept4(listener.number, nil, nil, Int32(SOCK_CLOEXEC.rawValue))
                guard number >= 0 else {
                    let isStopped = errno == EINVAL || errno == EBADF
                    places.signal()
                    if isStopped { return }
                    // Out of descriptors or memory: clients wait in the backlog until some are free again.
                    usleep(10_000)
                    continue
                }
                do {
                    try DedicatedThread.start(name: "knetd-client") { [self] in
                        serve(Descriptor(owning: number))
                        places.signal()
                    }
                } catch {
                    close(number)
                    places.signal()
                }
            }
        }
    }

    /// Stops accepting and removes the socket.
    public func stop() {
        shutdown(listener.number, Int32(SHUT_RDWR))
        unlink(path)
    }

    private func serve(_ connection: consuming Descriptor) {
        AgentSocket.setTimeout(connection.number, seconds: Self.clientSeconds)
        var request = Data()
        let namespace: NetworkNamespace?
        do {
            namespace = try AgentSocket.receive(
                connection.number, into: &request, limit: limit, deadline: .now + .seconds(Self.clientSeconds)
            )
            .map { NetworkNamespace(Descriptor(owning: $0)) }
        } catch {
            return
        }
        let reply = runOnThisThread { [request, handler] in await handler(request, namespace) }
        try? AgentSocket.send(connection.number, reply)
        // The client waits for the end, which closing would bring only after all else here is torn down.
        shutdown(connection.number, Int32(SHUT_WR))
    }
}
