import Synchronization

/// An API server for tests and benchmarks: keeps objects and serves them to list and watch as kube-apiserver does, and
/// misbehaves on demand.
public final class APIDouble: Sendable {
    let dispatcher: Dispatcher
    private let options: Options
    private let server = Mutex<Server?>(nil)
    /// Where it listens also after a restart.
    private let lastPort = Mutex(0)

    /// - Throws: what hinders listening: an address in use, certificates that cannot be read.
    public static func start(_ options: Options = Options()) async throws -> APIDouble {
        let double = APIDouble(options)
        try await double.restart()
        return double
    }

    private init(_ options: Options) {
        self.options = options
        dispatcher = Dispatcher(options)
    }

    /// Closes the listener and all connections; objects and history stay.
    public func stop() async {
        let server = server.withLock { server in
            defer { server = nil }
            return server
        }
        await server?.stop()
    }

    /// Listens again, on the port that it had.
    public func restart() async throws {
        await stop()
        var options = options
        if case .address(let address, port: 0) = options.listener {
            options.listener = .address(address, port: port)
        }
        let started = try await Server.start(options, dispatcher: dispatcher)
        lastPort.withLock { $0 = started.port }
        server.withLock { $0 = started }
    }

    public var port: Int { lastPort.withLock { $0 } }

    /// `https://127.0.0.1:6443`; of a socket that was handed over, with the loopback address.
    public var url: String {
        var host = "127.0.0.1"
        if case .address(let address, _) = options.listener, address != "0.0.0.0", address != "::" { host = address }
        return "\(options.tls == nil ? "http" : "https")://\(host.contains(":") ? "[\(host)]" : host):\(port)"
    }

    /// Bearer tokens that are accepted; `nil` asks nobody who they are.
    public var tokens: Set<String>? {
        get { dispatcher.tokens.withLock { $0 } }
        set { dispatcher.tokens.withLock { $0 = newValue } }
    }

    public var faults: Faults {
        get { dispatcher.faults.faults }
        set { dispatcher.faults.faults = newValue }
    }

    /// Serves one more resource.
    public func register(_ resource: Resource) { dispatcher.table.withLock { $0.register(resource) } }

    // MARK: What clients did

    /// All requests so far, in the order in which they came.
    public var requests: [Request] { dispatcher.log.all }

    public func forgetRequests() { dispatcher.log.clear() }

    /// Open watches by resource: `pods`, `endpointslices.discovery.k8s.io`.
    public var openWatches: [String: Int] { dispatcher.watches.all }

    /// Waits until at least `count` watches of each of the resources are open.
    /// - Returns: whether they are before `timeout`.
    public func waitForWatches(
        of resources: [Resource], count: Int = 1, timeout: Duration = .seconds(10)
    ) async -> Bool {
        await wait(timeout) { double in
            let open = double.openWatches
            return resources.allSatisfy { open[$0.name, default: 0] >= count }
        }
    }

    /// Waits until a watch has fallen silent by `faults`.
    /// - Returns: whether one has before `timeout`.
    public func waitForSilence(timeout: Duration = .seconds(10)) async -> Bool {
        await wait(timeout) { $0.dispatcher.faults.silenced > 0 }
    }

    /// Waits until a request has come for which `condition` holds.
    /// - Returns: whether one has before `timeout`.
    public func waitForRequest(
        timeout: Duration = .seconds(10), where condition: @Sendable (Request) -> Bool
    ) async -> Bool {
        await wait(timeout) { $0.requests.contains(where: condition) }
    }

    private func wait(_ timeout: Duration, until condition: (APIDouble) -> Bool) async -> Bool {
        let deadline = ContinuousClock.now + timeout
        while !condition(self) {
            if ContinuousClock.now > deadline { return false }
            try? await Task.sleep(for: .milliseconds(5))
        }
        return true
    }
}
