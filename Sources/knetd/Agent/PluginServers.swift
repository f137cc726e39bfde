import KnetCore
import Logging
import Synchronization

/// Listens where a plugin wants to be asked over HTTP, as the state goes on.
final class PluginServers: Sendable {
    private let plugin: any PluginService
    private let state: StateStore
    private let isHealthy: @Sendable () -> Bool
    private let logger: Logger
    /// Why an address cannot be listened on.
    private let troubles = Mutex<[Endpoint: String]>([:])

    /// Between two trials to listen on an address that another program has.
    private static let retry = Duration.seconds(2)

    init(
        _ plugin: any PluginService, state: StateStore, isHealthy: @escaping @Sendable () -> Bool, logger: Logger
    ) {
        self.plugin = plugin
        self.state = state
        self.isHealthy = isHealthy
        self.logger = logger
    }

    var faults: [String] { troubles.withLock { $0.sorted { "\($0.key)" < "\($1.key)" }.map(\.value) } }

    func run() async {
        let (wakes, waker) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let subscription = state.follow { waker.yield() }
        waker.yield()
        var running: [Endpoint: StatusServer] = [:]
        await withDiscardingTaskGroup { group in
            group.addTask {
                while (try? await Task.sleep(for: Self.retry)) != nil { waker.yield() }
            }
            for await _ in wakes {
                await serve(subscription.take().state, &running)
                // Many changes in a row are looked at once.
                try? await Task.sleep(for: .milliseconds(20))
            }
            group.cancelAll()
        }
        for server in running.values { await server.stop() }
    }

    private func serve(_ state: ClusterState, _ running: inout [Endpoint: StatusServer]) async {
        let wanted = plugin.servers(in: state, isHealthy: isHealthy)
        for (endpoint, server) in running where wanted[endpoint] == nil {
            await server.stop()
            running[endpoint] = nil
        }
        troubles.withLock { troubles in troubles = troubles.filter { wanted[$0.key] != nil } }
        for (endpoint, respond) in wanted where running[endpoint] == nil {
            do {
                running[endpoint] = try await StatusServer.start([endpoint], respond: respond)
                troubles.withLock { $0[endpoint] = nil }
            } catch {
                let reason = "\((error as? AddressUnavailable)?.cause ?? "cannot listen on \(endpoint): \(error)")"
                let isNew = troubles.withLock { $0.updateValue(reason, forKey: endpoint) != reason }
                if isNew { logger.warning("\(reason)", metadata: ["op": "listen"]) }
            }
        }
    }
}
