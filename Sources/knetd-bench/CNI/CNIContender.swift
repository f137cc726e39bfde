import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// A pod that is to be attached.
struct BenchPod: Sendable {
    let index: Int
    /// Of its network namespace.
    let path: String
    /// Port of the node that leads to port 80 of the pod; one to each pod.
    var hostPort: Int { 20_000 + index }

    /// Waits, at most ten seconds: a plugin may answer DEL before the kernel has deleted the link, and must not hand that work
    /// to the turn of the next.
    func waitUntilLinkIsGone() throws {
        try NetworkNamespace(path: path).run {
            for _ in 0..<20_000 {
                if (try? NetlinkSocket.index(of: "eth0")) == nil {
                    // The name goes first. A change of another link has to wait until the kernel is done with this one.
                    return try NetlinkSocket().request(.changeLink(index: NetlinkSocket.index(of: "lo"), up: true))
                }
                usleep(500)
            }
            throw Playground.Failure("the link of \(path) is still there ten seconds after DEL")
        }
    }
}

/// What attaching gave: how long it took, and what detaching is told of it.
struct Attached: Sendable {
    let milliseconds: Double
    var result: JSONValue = .null
}

/// Something that attaches pods.
protocol CNIContender: Sendable {
    var name: String { get }
    func add(_ pod: BenchPod) throws -> Attached
    /// - Returns: milliseconds.
    func delete(_ pod: BenchPod, after result: JSONValue) throws -> Double
}

/// One or several plugins, executed one after the other as a runtime does: each is given the result of the one before it,
/// and DEL goes the other way round.
struct PluginChain: CNIContender {
    struct Plugin {
        let executable: String
        let configuration: JSONValue
        /// Whether the runtime tells it of the pod's host ports.
        var takesPorts = false
    }

    let name: String
    let node: NetworkNamespace
    let plugins: [Plugin]
    /// `CNI_PATH`: where plugins look for each other.
    let path: String

    /// Seconds after which an execution is killed; the slowest that were seen took two.
    private static let patience = 30

    func add(_ pod: BenchPod) throws -> Attached {
        var attached = Attached(milliseconds: 0)
        for plugin in plugins {
            let (milliseconds, output) = try execute("ADD", plugin, pod, previous: attached.result)
            attached = Attached(
                milliseconds: attached.milliseconds + milliseconds,
                result: try JSONValue(parsing: Data(output.utf8)))
        }
        return attached
    }

    func delete(_ pod: BenchPod, after result: JSONValue) throws -> Double {
        try plugins.reversed().reduce(0) { try $0 + execute("DEL", $1, pod, previous: result).milliseconds }
    }

    private func execute(
        _ command: String, _ plugin: Plugin, _ pod: BenchPod, previous: JSONValue
    ) throws -> (milliseconds: Double, output: String) {
        var members = plugin.configuration.object ?? [:]
        if previous != .null { members["prevResult"] = previous }
        if plugin.takesPorts {
            members["runtimeConfig"] = [
                "portMappings": [
                    ["hostPort": .integer(pod.hostPort), "containerPort": 80, "protocol": "tcp"]
                ]
            ]
        }
        let environment = [
            "CNI_COMMAND": command, "CNI_CONTAINERID": "bench-\(pod.index)", "CNI_IFNAME": "eth0",
            "CNI_NETNS": pod.path, "CNI_PATH": path,
            "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod-\(pod.index)",
        ]
        let input = JSONValue.object(members).text()
        let start = ContinuousClock.now
        let outcome = try ChildProcess.run(
            plugin.executable, [], environment: environment, input: input, in: node, seconds: Self.patience)
        let milliseconds = (ContinuousClock.now - start) / .milliseconds(1)
        guard outcome.status == 0 else {
            throw Playground.Failure("\(command) by \(plugin.executable): \(outcome.output)\(outcome.errors)")
        }
        return (milliseconds, outcome.output)
    }
}

/// The floor beneath all of them: a veth made by netlink alone, its peer directly in the pod's namespace, and no process.
struct BareVeth: CNIContender {
    let name = "bare veth by netlink, no process"
    let node: NetworkNamespace

    func add(_ pod: BenchPod) throws -> Attached {
        let peer = try NetworkNamespace(path: pod.path)
        return try node.run {
            let socket = try NetlinkSocket()
            let start = ContinuousClock.now
            try socket.createVeth(
                VethRequest(
                    name: link(pod), mac: MACAddress(derivedFrom: "node \(pod.index)"), alias: nil, peerName: "eth0",
                    peerMAC: MACAddress(derivedFrom: "pod \(pod.index)"), peerNamespace: peer.number, mtu: 1500))
            return Attached(milliseconds: (ContinuousClock.now - start) / .milliseconds(1))
        }
    }

    func delete(_ pod: BenchPod, after _: JSONValue) throws -> Double {
        try node.run {
            let socket = try NetlinkSocket()
            let start = ContinuousClock.now
            try socket.request(.deleteLink(name: link(pod)))
            return (ContinuousClock.now - start) / .milliseconds(1)
        }
    }

    private func link(_ pod: BenchPod) -> String { "bench\(pod.index)" }
}
