import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// A playground that lasts as long as `body`.
/// - Parameter byRules: Services are by nftables' rules, whatever the dataplane.
func withPlayground<Result>(
    nodes: Int = 1, _ configuration: JSONValue = [:], families: [IPFamily] = IPFamily.allCases,
    daemon environment: [String: String] = [:], wrapper: [String] = [],
    cluster: ((Playground) throws -> JSONValue)? = nil, byRules: Bool = false, _ body: (Playground) throws -> Result
) throws -> Result {
    var options = Playground.Options()
    options.name = "test-\(UInt32.random(in: 0...UInt32.max))"
    options.nodes = nodes
    options.configuration = overAnotherDataplane(configuration, byRules: byRules)
    options.families = families
    options.environment = environment
    options.wrapper = wrapper
    options.cluster = cluster
    let playground = try Playground.up(options, executable: Checkout.executable)
    defer { playground.down() }
    if testedDataplane.hasPrefix("ebpf") { try expectPrograms(options.configuration, environment, playground) }
    return try body(playground)
}

/// A suite over eBPF that the host's stack carried would show nothing: each node's programs must be at work, but for what
/// `KNETD_BPF_REFUSE` refuses.
private func expectPrograms(
    _ configuration: JSONValue, _ environment: [String: String], _ playground: Playground
) throws {
    let plugins = configuration["plugins"]
    guard let ebpf = plugins?["ebpf"] else { return }
    let words = environment["KNETD_BPF_REFUSE"] ?? getenv("KNETD_BPF_REFUSE").map { String(cString: $0) } ?? ""
    let refused = Set(words.split(separator: ",").map(String.init))
    #expect(refused.isSubset(of: ["tcx", "load", "cgroup"]))
    // Where each packet is looked at, the stack has all.
    let isCut = plugins?["networkPolicy"]?["existingConnections"] == "cut"
    var expected = ["knetd_bpf_in_use": !isCut && !refused.contains("load")]
    if plugins?["serviceProxy"] != nil, ebpf["socketServices"] != false {
        expected["knetd_bpf_sockets_in_use"] = !refused.contains("cgroup")
    }
    for node in playground.nodeNames {
        for (name, isInUse) in expected {
            try eventually(within: 10) { (try? metric(name, of: node, playground)) == (isInUse ? 1 : 0) }
        }
        guard refused.contains("tcx"), expected["knetd_bpf_in_use"] == true else { continue }
        let outcome = try knetd("bpf", "status", "--config", playground.configurationPath(node))
        #expect(outcome.output.contains("by clsact"), "\(outcome)")
    }
}

/// `KNETD_TEST_DATAPLANE`: a dataplane's name, or `ebpf-direct`.
let testedDataplane = getenv("KNETD_TEST_DATAPLANE").map { String(cString: $0) } ?? "overlay"

/// The dataplane of plain routes, for tests of what is beside it: `routed`, or the one in its place.
let plainRoutes: (name: String, settings: JSONValue) =
    testedDataplane.hasPrefix("ebpf") ? ("ebpf", ["transport": "direct"]) : ("routed", [:])

/// With the dataplane that `KNETD_TEST_DATAPLANE` names in the place of overlay: whole suites run over it so.
private func overAnotherDataplane(_ configuration: JSONValue, byRules: Bool) -> JSONValue {
    let isDirect = testedDataplane == "ebpf-direct"
    let name = isDirect ? "ebpf" : testedDataplane
    guard name != "overlay", var top = configuration.object else { return configuration }
    var plugins = top["plugins"]?.object ?? ["overlay": [:]]
    guard let settings = plugins.removeValue(forKey: "overlay") else { return configuration }
    var more: [String: JSONValue] = byRules && name == "ebpf" ? ["socketServices": false] : [:]
    if isDirect { more["transport"] = "direct" }
    plugins[name] = .object((settings.object ?? [:]).merging(more) { $1 })
    top["plugins"] = .object(plugins)
    return .object(top)
}

/// Gives a node other plugins, and has its daemon read them.
func configure(_ node: String, _ plugins: JSONValue, _ playground: Playground) throws {
    let path = playground.configurationPath(node)
    var configuration = try JSONValue(parsing: Data(contentsOf: URL(fileURLWithPath: path))).object ?? [:]
    configuration["plugins"] = plugins
    try Data(JSONValue.object(configuration).text().utf8).write(to: URL(fileURLWithPath: path), options: .atomic)
    kill(playground.process(of: node), SIGHUP)
}

/// Starts a daemon that alone sees the boot's identity in the file `boot`, and waits until it is ready.
func start(_ node: String, boot: String, _ playground: Playground) throws {
    let script = "mount --bind \(boot) /proc/sys/kernel/random/boot_id && exec \"$@\""
    try playground.startDaemon(node, wrapper: ["unshare", "--mount", "sh", "-c", script, "sh"])
    try playground.waitUntilReady(node)
}

/// Takes from a node what does not outlast a reboot: links, routes and rules of ours, and `/run`.
func forgetBoot(of node: String, _ playground: Playground) throws {
    _ = try? shell(
        """
        for link in $(ip -o link | grep -oE 'k(net|ifb)[0-9a-z]{11}|knetd6?[.]1'); do ip link del $link; done
        ip route flush proto 107; ip -6 route flush proto 107; nft flush ruleset; true
        """, in: playground.namespace(node))
    let run = "\(playground.directory)/\(node)/run"
    Playground.unmount(below: run)
    try FileManager.default.removeItem(atPath: run)
}

/// Runs knetd itself.
func knetd(_ arguments: String..., in namespace: NetworkNamespace? = nil) throws -> ChildProcess.Outcome {
    try ChildProcess.run(Checkout.executable, arguments, in: namespace)
}

/// Runs a command inside a node or pod and returns its output.
func shell(_ command: String, in namespace: NetworkNamespace) throws -> String {
    let outcome = try ChildProcess.run("/bin/sh", ["-c", command], in: namespace)
    guard outcome.status == 0 else { throw Playground.Failure("\(command): \(outcome.errors)\(outcome.output)") }
    return outcome.output
}

/// Waits until `condition` holds.
/// - Returns: milliseconds until it did.
@discardableResult
func eventually(
    within seconds: Double = 1, sourceLocation: SourceLocation = #_sourceLocation, _ condition: () throws -> Bool
) throws -> Int {
    let start = ContinuousClock.now
    while try !condition() {
        guard ContinuousClock.now - start < .seconds(seconds) else {
            Issue.record("did not come true within \(seconds) s", sourceLocation: sourceLocation)
            break
        }
        usleep(5_000)
    }
    return Int((ContinuousClock.now - start) / .milliseconds(1))
}

/// A page of the node's status server.
func page(_ path: String, of node: String, _ playground: Playground) throws -> String {
    try playground.namespace(node).run { try HTTP.get("127.0.0.1", port: 9469, path) }
}

/// One sample of the node's metrics; 0 where there is none.
func metric(_ name: String, of node: String, _ playground: Playground) throws -> Double {
    let lines = try page("/metrics", of: node, playground).split(separator: "\n")
    return lines.first { $0.hasPrefix(name + " ") }.flatMap { Double($0.split(separator: " ").last ?? "") } ?? 0
}

/// Executes the CNI plugin as a runtime does.
struct CNIRun {
    let playground: Playground
    var node = "node1"
    var environment: [String: String] = [:]
    var version = "1.1.0"
    var extra: [String: JSONValue] = [:]

    /// - Parameter input: instead of the network configuration.
    func callAsFunction(_ command: String, pod: String = "", input: String? = nil) throws -> (
        status: Int32, json: JSONValue
    ) {
        var variables = ["CNI_COMMAND": command]
        if !pod.isEmpty {
            variables["CNI_CONTAINERID"] = "test-\(pod)"
            variables["CNI_IFNAME"] = "eth0"
            variables["CNI_NETNS"] = playground.namespacePath(pod)
            variables["CNI_ARGS"] = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=\(pod)"
        }
        variables.merge(environment) { $1 }
        var config = playground.networkConfiguration(node).object ?? [:]
        config["cniVersion"] = .string(version)
        config.merge(extra) { $1 }
        let outcome = try ChildProcess.run(
            Checkout.executable, [], environment: variables, input: input ?? JSONValue.object(config).text(),
            in: playground.namespace(node))
        let json = outcome.output.isEmpty ? JSONValue.null : try JSONValue(parsing: Data(outcome.output.utf8))
        return (outcome.status, json)
    }
}
