import EBPFPlugin
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import Logging
import ServiceProxyPlugin

/// Measures the service proxy alone, in a namespace of its own: all services from nothing, one endpoint changed, and what a
/// connection costs, with few services and with many.
struct ServicesSection {
    static func direct(beside name: String) -> String { "the endpoint itself, beside \(name)" }

    static func socketName(_ size: Int) -> String { "at the socket, \(name(size))" }

    private let sizes: [Int]
    private let changes: Int
    /// Of one turn.
    private let connections: Int

    /// Through the Service and beside it.
    private static let turns = 10

    static func name(_ size: Int) -> String { "\(size) services × \(ServiceContents.endpoints)" }

    init(_ stage: Stage) {
        let quick = stage.options.isQuick
        sizes = quick ? [10, 100] : [10, 100, 1000, 10_000, 50_000]
        changes = quick ? 20 : 1000
        connections = quick ? 10 : 1000
    }

    private struct Collectors {
        var cold = Collector()
        var change = Collector()
        var work = Collector()
        var elements = Collector()
        var memory = Collector()
        var connect = Collector()
    }

    func measure() throws -> [Table] {
        var figures = Collectors()
        for size in sizes {
            try Progress.step("services: \(size)")
            let contents = ServiceContents(services: size)
            try measure(Self.name(size), contents, &figures) {
                ServiceProxy(.init(), kernel: try ServiceKernel(nftables: Nftables(), pool: NetlinkPool()))
            }
            let folder = FileManager.default.temporaryDirectory.appendingPathComponent("knetd-bench-\(getpid())").path
            try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
            let kept = KeptDescriptors()
            defer {
                SocketKernel.remove(runDirectory: folder, kept)
                try? FileManager.default.removeItem(atPath: folder)
            }
            try measure(Self.socketName(size), contents, &figures) {
                // Slots are a power of two, and one more.
                let settings = EBPF.Settings(frontends: 1 << 17, slots: 1 << 20)
                return SocketServices(
                    .init(), ownCookie: try NetworkNamespace.currentCookie(), answered: nil,
                    kernel: SocketKernel(settings, runDirectory: folder, kept: kept, logger: Logger(label: "bench")))
            }
            for layout in OtherLayout.allCases {
                do {
                    try measure(layout, size, &figures)
                } catch {
                    // What was measured of knetd is not lost for that.
                    try Progress.check()
                    end(layout.row(size), "\(error)", &figures)
                }
            }
        }
        return [
            Table(
                id: "services.cold", title: "From nothing to all services in force", unit: "ms", rows: figures.cold.rows
            ),
            Table(
                id: "services.change", title: "From one changed endpoint in the cluster's state to the kernel",
                unit: "ms",
                rows: figures.change.rows),
            Table(
                id: "services.work", title: "Processor time of such a change, state and kernel", unit: "ms",
                rows: figures.work.rows),
            Table(
                id: "services.elements", title: "Elements that were sent for it", unit: "elements",
                rows: figures.elements.rows),
            Table(
                id: "services.memory", title: "Resident memory of this program, state included", unit: "MiB",
                rows: figures.memory.rows),
            Table(
                id: "services.connect", title: "Connect and close through a ClusterIP, on one machine", unit: "µs",
                rows: figures.connect.rows),
        ]
    }

    private func measure(
        _ name: String, _ contents: ServiceContents, _ figures: inout Collectors, _ plugin: () throws -> some Plugin
    ) throws {
        let (size, namespace) = (contents.services, try NetworkNamespace.anonymous())
        let proxy = try namespace.run {
            try Self.prepare()
            return RunningPlugin(try plugin(), contents)
        }
        defer { proxy.stop() }
        figures.cold.add(name, [try proxy.waitUntilInForce()])
        // What comes second finds memory that the first one left.
        for (part, mebibytes) in try Memory.held(by: getpid()) where part == .resident && name == Self.name(size) {
            figures.memory.add(name, [mebibytes])
        }
        let before = ProcessUsage.milliseconds
        var elements: [Double] = []
        for number in 0..<changes {
            try Progress.check()
            let written = KernelWrites.total
            figures.change.add(name, [try proxy.change(number % size, version: number + 1)])
            elements.append(Double(KernelWrites.total - written))
        }
        figures.work.add(name, [(ProcessUsage.milliseconds - before) / Double(changes)])
        figures.elements.add(name, elements)
        let server = try namespace.run { try ConnectServer() }
        defer { server.stop() }
        try proxy.serve(ConnectServer.address, port: ConnectServer.port)
        let ways: [(row: String, address: IPAddress, port: UInt16)] = [
            (Self.direct(beside: name), ConnectServer.address, ConnectServer.port),
            (name, ServiceContents.probeAddress, 80),
        ]
        for round in 0..<Self.turns {
            for (row, address, port) in round % 2 == 0 ? ways : ways.reversed() {
                figures.connect.add(row, try server.connect(address, port, connections, namespace))
            }
        }
    }

    private func measure(_ layout: OtherLayout, _ size: Int, _ figures: inout Collectors) throws {
        try Progress.check()
        let row = layout.row(size)
        guard size <= OtherLayout.limit else {
            return end(row, "takes minutes", &figures)
        }
        let namespace = try NetworkNamespace.anonymous()
        let running = try namespace.run {
            try Self.prepare()
            return try RunningLayout(layout, ServiceContents(services: size))
        }
        figures.cold.add(row, [try namespace.run { try running.load() }])
        let server = try namespace.run { try ConnectServer() }
        defer { server.stop() }
        figures.connect.add(
            row, try server.connect(ServiceContents.probeAddress, 80, connections * Self.turns / 2, namespace))
        let count = min(changes, size > 1000 ? 10 : 50)
        let times = try namespace.run {
            try (0..<count).map { number in
                // Another version in every round over all services.
                try running.change(number % size, version: number / size + 1)
            }
        }
        figures.change.add(row, times)
    }

    private func end(_ row: String, _ reason: String, _ figures: inout Collectors) {
        for collector in [\Collectors.cold, \.change, \.connect] {
            figures[keyPath: collector].end(row, .skipped(reason))
        }
    }

    /// A node with a way to everywhere, and no sockets that wait for their end.
    private static func prepare() throws {
        let socket = try NetlinkSocket()
        let lo = try NetlinkSocket.index(of: "lo")
        try socket.request(.changeLink(index: lo, up: true))
        try socket.request(.addAddress(ConnectServer.address, prefixLength: 32, index: lo))
        try socket.request(
            .addRoute(Route(destination: CIDR(containing: .v4(0), prefixLength: 0), index: lo), replacing: true))
        try Sysctl.write("net/ipv4/tcp_max_tw_buckets", "0")
    }
}
