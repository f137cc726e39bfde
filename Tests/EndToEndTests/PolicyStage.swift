import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// Two nodes with nine pods in three namespaces, each of which serves and asks; what the cluster holds is one manifest.
final class PolicyStage {
    /// Flows that are otherwise than the oracle says.
    struct Mismatch: CustomStringConvertible {
        /// Reached, but not allowed.
        let leaked: Set<PolicyFlow>
        /// Allowed, but not reached.
        let missing: Set<PolicyFlow>

        var description: String {
            (Self.lines("passes and must not", leaked) + Self.lines("is held back and must not be", missing)).joined(
                separator: "\n")
        }

        private static func lines(_ what: String, _ flows: Set<PolicyFlow>) -> [String] {
            let pairs = Dictionary(grouping: flows) { "\($0.source) → \($0.destination)" }
            let lines = pairs.sorted { $0.key < $1.key }.map { pair, flows in
                "\(pair) \(what): \(flows.map(\.kind).sorted().joined(separator: ", "))"
            }
            return lines.count > 24 ? Array(lines.prefix(24)) + ["… and \(lines.count - 24) more pairs"] : lines
        }
    }

    let playground: Playground
    /// Without policies.
    let world: PolicyWorld
    /// The longest time from a change to the look that found all as it must be, in milliseconds.
    private(set) var slowest = 0

    private let servers: PolicyServers
    private let prober: PolicyProber
    private let server: PolicyServer?
    private var written = ""

    /// So long a change may take.
    private static let patience = Duration.seconds(1)

    /// - Parameters:
    ///   - settings: of the plugin.
    ///   - server: what the nodes know the cluster from; without it, manifests.
    static func with<Result>(
        _ settings: [String: JSONValue] = [:], server: PolicyServer? = nil, _ body: (PolicyStage) throws -> Result
    ) throws -> Result {
        let plugins: JSONValue = ["overlay": [:], "serviceProxy": [:], "networkPolicy": .object(settings)]
        return try withPlayground(nodes: 2, ["plugins": plugins], cluster: server?.start) { playground in
            let stage = try PolicyStage(playground, server)
            defer { stage.servers.stop() }
            return try body(stage)
        }
    }

    private init(_ playground: Playground, _ server: PolicyServer?) throws {
        self.playground = playground
        self.server = server
        var places: [String: PolicyWorld.Place] = [:]
        var namespaces: [String: NetworkNamespace] = [:]
        for pod in PolicyWorld.pods {
            let node = PolicyWorld.node(of: pod)
            let addresses = try playground.addPod(pod, node: node)
            places[pod] = PolicyWorld.Place(node: node, addresses: addresses)
            namespaces[pod] = try playground.namespace(pod)
        }
        world = PolicyWorld(places: places)
        servers = try PolicyServers(in: Array(namespaces.values))
        prober = PolicyProber(world, namespaces: namespaces)
    }

    // MARK: Changes

    /// Puts a world in the place of the one before, in one step, and waits until both nodes have had their turn with it.
    func apply(_ world: PolicyWorld) throws {
        let list: JSONValue = ["apiVersion": "v1", "kind": "List", "items": .array(world.objects)]
        let text = list.text()
        // What changes nothing wakes nobody.
        guard text != written else { return }
        let before = try turns()
        written = text
        if let server {
            try server.put(world.objects)
        } else {
            try Data(text.utf8).write(
                to: URL(fileURLWithPath: "\(playground.manifests)/policies.json"), options: .atomic)
        }
        let deadline = ContinuousClock.now + .milliseconds(400)
        while ContinuousClock.now < deadline {
            let now = try turns()
            if zip(before, now).allSatisfy({ $0 < $1 }) { return }
            usleep(3_000)
        }
    }

    /// How often each node's reconciler has brought the state to the kernel.
    private func turns() throws -> [Double] {
        try playground.nodeNames.map { node in
            try metric("knetd_passes_total{plugin=\"networkPolicy\"}", of: node, playground)
        }
    }

    // MARK: Truth tables

    /// Applies a world and looks until all flows are as the oracle says, for one second.
    /// - Parameter allowed: what must pass, where the test knows it better than the oracle.
    /// - Returns: what was otherwise then.
    func mismatch(_ world: PolicyWorld, allowing allowed: Set<PolicyFlow>? = nil) throws -> Mismatch? {
        let oracle = PolicyOracle(world.objects)
        let expected = allowed ?? Set(PolicyFlow.all.filter { oracle.allows($0) })
        let start = ContinuousClock.now
        let deadline = start + Self.patience
        try apply(world)
        while true {
            let began = ContinuousClock.now
            var found = try prober.measure(expecting: expected, until: deadline)
            // Programs have remembered by now what they were answered.
            if found == expected, testedDataplane.hasPrefix("ebpf") {
                found = try prober.measure(expecting: expected, until: deadline)
            }
            if found == expected {
                slowest = max(slowest, Int((began - start) / .milliseconds(1)))
                return nil
            }
            if ContinuousClock.now >= deadline {
                return Mismatch(leaked: found.subtracting(expected), missing: expected.subtracting(found))
            }
        }
    }

    // MARK: Explanations

    /// What `knetd policy explain` says of flows on both nodes, where it is not what the oracle says, or the kernel does not agree.
    /// - Parameters:
    ///   - turn: which flows are looked at, where not all are.
    ///   - every: of so many flows one is looked at.
    func wrongExplanations(_ world: PolicyWorld, turn: Int, every: Int) throws -> [String] {
        let oracle = PolicyOracle(world.objects)
        let all = PolicyFlow.all.filter { $0.family == .v4 }
        let flows = all.indices.filter { $0 % every == turn % every }.map { all[$0] }
        let words = flows.flatMap { [$0.source, "\($0.destination):\($0.port)/\($0.transport.rawValue)"] }
        return try playground.nodeNames.flatMap { node -> [String] in
            let request = AgentRequest.describe(plugin: "networkPolicy", words: ["explain"] + words)
            let data = try AgentSocket.ask(
                playground.socketPath(node), JSONEncoder().encode(request), descriptor: nil, seconds: 30)
            let reply = try JSONDecoder().decode(AgentReply.self, from: data)
            guard let answers = reply.body?.array, answers.count == flows.count else {
                return ["\(node): \(reply.body?.text() ?? "no answer")"]
            }
            return zip(flows, answers).flatMap { flow, answer in
                (answer["ways"]?.array ?? []).flatMap { way -> [String] in
                    let family: IPFamily = way["source"]?.string?.contains(":") == true ? .v6 : .v4
                    let own = PolicyFlow(
                        source: flow.source, destination: flow.destination, port: flow.port, transport: flow.transport,
                        family: family)
                    let isRight = (way["verdict"] == "accept") == oracle.allows(own)
                    return (isRight ? [] : ["\(node): \(own): \(way.text())"])
                        + (way["faults"]?.array ?? []).map { "\(node): \(own): \($0.text())" }
                }
            }
        }
    }
}
