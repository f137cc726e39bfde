import CMnl
import DNSPlugin
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import Logging

/// How soon a changed Service is in the answers: the plugin alone, in a namespace of its own.
struct DNSChanges {
    private let services: Int
    private let changes: Int

    init(_ stage: Stage, services: Int) {
        self.services = services
        changes = stage.options.isQuick ? 20 : 1_000
    }

    static func row(_ services: Int) -> String { "one of \(services) services" }

    func measure() throws -> Collector {
        try Progress.step("dns: changes")
        var collector = Collector()
        let namespace = try NetworkNamespace.anonymous()
        let times = try namespace.run { () throws -> [Double] in
            let socket = try NetlinkSocket()
            try socket.request(.changeLink(index: NetlinkSocket.index(of: "lo"), up: true))
            return try measureHere()
        }
        collector.add(Self.row(services), times)
        return collector
    }

    private func measureHere() throws -> [Double] {
        let store = StateStore()
        var problems: [ConfigurationProblem] = []
        let settings = Shape.object(DNS.settings.fields).normalise(
            ["listen": ["169.254.20.10"], "upstreams": ["127.0.0.1:1"], "threads": 1], path: "$", problems: &problems)
        let logger = Logger(label: "bench") { _ in SwiftLogNoOpLogHandler() }
        let dns = try DNS(
            settings.decode(), nftables: Nftables(), pool: NetlinkPool(), kept: KeptDescriptors(), logger: logger)
        let contents = ServiceContents(services: services)
        let objects = (0..<services).map { AnyClusterObject.service(contents.service($0)) }
        store.update(Set(objects.map(\.key)).union([.local]), told: dns.needs.kinds) { state in
            state.set(local: ServiceContents.local)
            for object in objects { state.set(object) }
        }
        let reconciler = Reconciler(
            plugin: dns, store: store, executor: BlockingExecutor(label: "bench.dns"), resyncInterval: .seconds(3600),
            logger: logger)
        let task = Task.detached { await reconciler.run() }
        let life = Task.detached { await dns.run() }
        defer {
            task.cancel()
            life.cancel()
        }
        let server = IPAddress.v4(0xA9FE_140A)
        let socket = try Sockets.open(.v4, SOCK_DGRAM, milliseconds: 1_000)
        let deadline = ContinuousClock.now + .seconds(20)
        while (try? Sockets.connect(socket.number, to: server, port: 53)) == nil || (try? ask(socket.number, 0)) == nil
        {
            guard ContinuousClock.now < deadline else { throw Playground.Failure("the plugin did not answer") }
            usleep(10_000)
        }
        return try (0..<changes).map { number in
            try Progress.check()
            let index = number % services
            let address = IPAddress.v4(0x0B00_0000 + UInt32(number))
            var service = contents.service(index)
            service.spec?.clusterIP = "\(address)"
            service.spec?.clusterIPs = ["\(address)"]
            let start = ContinuousClock.now
            store.update([service.key]) { $0.set(.service(service)) }
            while try ask(socket.number, index) != address {
                guard ContinuousClock.now - start < .seconds(5) else {
                    throw Playground.Failure("a change was not answered")
                }
            }
            return (ContinuousClock.now - start) / .milliseconds(1)
        }
    }

    /// - Returns: the address of a service, as it is answered.
    private func ask(_ socket: Int32, _ index: Int) throws -> IPAddress? {
        let message = DNSClient.message("service-\(index).default.svc.cluster.local A", id: UInt16(index & 0xFFFF))
        var bytes = [UInt8](repeating: 0, count: 512)
        guard send(socket, message, message.count, 0) == message.count else { throw SystemError("send") }
        let count = try syscall("receive") { recv(socket, &bytes, bytes.count, 0) }
        return bytes[7] == 1 ? IPAddress(bytes: bytes[count - 4..<count]) : nil
    }
}
