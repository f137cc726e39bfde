import APIDouble
import FoundationEssentials
import Glibc
import KnetCore
import KnetKubernetes
import KnetLinux
import KnetPlayground
import Logging
import NIOPosix
import Synchronization

/// Measures what following a large cluster costs: time and memory until it is known, and processor time and delay per change.
/// The API server is our double, in this program's process.
struct APISection {
    static let everything = "all kinds"
    static let nodesOnly = "what the overlay needs"

    private static let allKinds = ObjectKey.clusterKinds.map(\.rawValue).sorted().joined(separator: ",")

    private let stage: Stage
    private let contents: ClusterContents
    /// Changes of endpoints and pods in a second, and for how long.
    private let rate = 100
    private let seconds: Int

    init(_ stage: Stage) {
        self.stage = stage
        let quick = stage.options.isQuick
        contents = ClusterContents(nodes: quick ? 10 : 1000, pods: quick ? 200 : 20_000, services: quick ? 50 : 5000)
        seconds = quick ? 1 : 60
    }

    private struct Collectors {
        var complete = Collector()
        var work = Collector()
        var peak = Collector()
        var steady = Collector()
        var anonymous = Collector()
        var change = Collector()
    }

    func measure() throws -> [Table] {
        var figures = Collectors()
        var delays = Collector()
        for (name, kinds) in [(Self.nodesOnly, ""), (Self.everything, Self.allKinds)] {
            try Progress.step("the API with \(contents.pods) pods: \(name)")
            var server: PlaygroundServer?
            let playground = try stage.playground(
                "knetd by the API, \(name)", nodes: 1,
                ["network": ClusterContents.network, "plugins": ["overlay": [:]]],
                daemon: ["KNETD_FOLLOW": kinds]
            ) { playground in
                let started = try PlaygroundServer(playground)
                try started.double.putMany(contents.all)
                server = started
                return ["kubernetes": ["kubeconfig": .string(try started.writeKubeconfig(playground))]]
            }
            guard let server else { continue }
            defer { server.stop() }
            try follow(name, kinds, playground, server, &figures)
            if name == Self.everything { delays.add(name, try delay(playground, server)) }
        }
        return tables(figures, delays)
    }

    private func tables(_ figures: Collectors, _ delays: Collector) -> [Table] {
        let size =
            "\(contents.services) services × \(contents.endpoints) endpoints, \(contents.nodes) nodes, \(contents.pods) pods"
        return [
            Table(
                id: "api.complete", title: "From knetd's start to the whole cluster known and in force: \(size)",
                unit: "ms",
                rows: figures.complete.rows),
            Table(id: "api.work", title: "Processor time until then", unit: "ms", rows: figures.work.rows),
            Table(id: "api.peak", title: "Resident memory at its peak", unit: "MiB", rows: figures.peak.rows),
            Table(id: "api.steady", title: "Resident memory afterwards", unit: "MiB", rows: figures.steady.rows),
            Table(
                id: "api.anonymous", title: "Anonymous memory, a part of it", unit: "MiB", rows: figures.anonymous.rows),
            Table(
                id: "api.change", title: "Processor time of a change, at \(rate) changes a second for \(seconds) s",
                unit: "ms", rows: figures.change.rows, remark: "What is not watched costs nothing."),
            Table(
                id: "api.delay", title: "From the write at the API server to the cluster's state", unit: "ms",
                rows: delays.rows, remark: "Server and client are in one process here, so that they have one clock."),
        ]
    }

    private func follow(
        _ name: String, _ kinds: String, _ playground: Playground, _ server: PlaygroundServer,
        _ figures: inout Collectors
    ) throws {
        for _ in 0..<(stage.options.isQuick ? 1 : 3) {
            try Progress.check()
            try playground.stopDaemon("node1")
            unlink("\(playground.directory)/node1/state/cluster.snapshot")
            let start = ContinuousClock.now
            try playground.startDaemon("node1", environment: ["KNETD_FOLLOW": kinds])
            try waitUntilLive(playground)
            figures.complete.add(name, [(ContinuousClock.now - start) / .milliseconds(1)])
            let process = playground.process(of: "node1")
            figures.work.add(name, [try ProcessorTime.milliseconds(of: process)])
            sleep(3)
            figures.peak.add(name, [try Memory.peak(of: process)])
            for (part, mebibytes) in try Memory.held(by: process) {
                if part == .resident { figures.steady.add(name, [mebibytes]) }
                if part == .anonymous { figures.anonymous.add(name, [mebibytes]) }
            }
        }
        let process = playground.process(of: "node1")
        let before = try ProcessorTime.milliseconds(of: process)
        let changes = try change(server, turn: 0) { _ in }
        usleep(500_000)
        figures.change.add(name, [(try ProcessorTime.milliseconds(of: process) - before) / Double(changes)])
    }

    private func waitUntilLive(_ playground: Playground) throws {
        let deadline = ContinuousClock.now + .seconds(120)
        while ContinuousClock.now < deadline {
            if let status = try? playground.status(of: "node1"), status["ready"] == true,
                status["source"]?["isLive"] == true
            {
                return
            }
            usleep(2000)
        }
        throw Playground.Failure("knetd does not know the cluster after 120 s\n\(playground.log(of: "node1"))")
    }

    /// Changes an endpoint or a pod in turn, at the rate.
    /// - Parameter turn: how often that was done to this server before.
    /// - Returns: how many changes there were.
    private func change(
        _ server: PlaygroundServer, turn: Int, _ changed: (JSONValue) throws -> Void
    ) throws -> Int {
        let start = ContinuousClock.now
        let count = rate * seconds
        // An object that is as it was is no change: three versions on, each differs from what an earlier turn left.
        let offset = 3 * turn + 1
        for number in 0..<count {
            try Progress.check()
            let object =
                number % 2 == 0
                ? contents.slice(number % contents.services, version: number / contents.services + offset)
                : contents.pod(number % contents.pods, version: number / contents.pods + offset)
            try changed(object)
            try server.double.put(object)
            let next = start + .seconds(1) / rate * (number + 1)
            if next > .now { usleep(UInt32((next - .now) / .microseconds(1))) }
        }
        return count
    }

    /// Follows in this process too.
    /// - Returns: milliseconds from each write to the state.
    private func delay(_ playground: Playground, _ server: PlaygroundServer) throws -> [Double] {
        let store = StateStore()
        var settings: [String: JSONValue] = [
            "servers": [], "snapshotSeconds": 60, "leaseNamespace": "kube-system", "leaseSeconds": 15,
        ]
        settings["kubeconfig"] = .string("\(playground.directory)/kubeconfig")
        let local = KubernetesSource.LocalView(nodeName: "another", annotations: { _ in [:] }, isUp: { false })
        let needs = ClusterNeeds(ObjectKey.clusterKinds, podsOfOtherNodes: true)
        let follower: Task<Void, Never> = try playground.namespace("lan").run {
            // Sockets belong to the namespace of the thread that makes them, so a group of its own is made in there.
            let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
            let source = KubernetesSource(
                try JSONValue.object(settings).decode(), needs: needs, local: local, snapshotPath: nil, store: store,
                writing: WriterExchange(),
                version: "bench", group: group, logger: Logger(label: "bench") { _ in SwiftLogNoOpLogHandler() })
            return Task.detached { await source.run() }
        }
        defer { follower.cancel() }
        let deadline = ContinuousClock.now + .seconds(120)
        while !store.current.isComplete(needs.kinds) {
            guard ContinuousClock.now < deadline else {
                throw Playground.Failure("the bench does not know the cluster")
            }
            usleep(10_000)
        }
        let written = Mutex<ContinuousClock.Instant?>(nil)
        let delays = Mutex<[Double]>([])
        let subscription = store.follow {
            let start = written.withLock { written in
                defer { written = nil }
                return written
            }
            if let start { delays.withLock { $0.append((ContinuousClock.now - start) / .milliseconds(1)) } }
        }
        defer { _ = subscription.take() }
        _ = try change(server, turn: 1) { _ in written.withLock { $0 = .now } }
        return delays.withLock { $0 }
    }
}
