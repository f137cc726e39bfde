import FoundationEssentials
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Debian's containerd and podman run containers on knetd's network: `Tests/runtimes/*.sh` inside a node.
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct RuntimeTests {
    /// - Parameters:
    ///   - environment: of the script, beside what all need.
    ///   - used: addresses of each range that are in use when the script is done.
    private func run(
        _ script: String, _ environment: [String: String], used: Int = 0, _ playground: Playground
    ) throws -> String {
        let folder = "\(playground.directory)/\(script)"
        let binaries = "\(folder)-bin"
        try FileManager.default.createDirectory(atPath: binaries, withIntermediateDirectories: true)
        try FileManager.default.createSymbolicLink(
            atPath: "\(binaries)/knetd", withDestinationPath: Checkout.executable)
        var plugin = playground.networkConfiguration("node1").object ?? [:]
        plugin["cniVersion"] = nil
        plugin["name"] = nil
        plugin["capabilities"] = ["portMappings": true, "bandwidth": true, "ips": true, "mac": true]
        let conflist: JSONValue = [
            "cniVersion": "1.0.0", "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"], "name": "runtimes",
            "plugins": [.object(plugin)],
        ]
        try Data(conflist.text(pretty: true).utf8).write(to: URL(fileURLWithPath: "\(folder).conflist"))
        let status = "\(Checkout.executable) status --config \(playground.configurationPath("node1"))"
        let freed = "[ $(\(status) | grep -cE '^range .* \(used) of') = 2 ]"
        let outcome = try ChildProcess.run(
            "\(Checkout.path)/Tests/runtimes/\(script).sh", [],
            environment: environment.merging(
                ["WORK": folder, "CNI_CONF": "\(folder).conflist", "CNI_BIN": binaries, "FREED": freed, "COUNT": "20"]
            ) { $1 }, in: playground.namespace("node1"))
        #expect(outcome.status == 0, "\(outcome.output)\(outcome.errors)\(playground.log(of: "node1"))")
        return outcome.output
    }

    @Test func podmanRunsContainersThatReachEachOtherAndTheirPorts() throws {
        try withPlayground { playground in
            let output = try run("podman", [:], playground)
            for words in ["the node from 192.168.77.11:9000", "20 containers started at once", "nothing is left"] {
                #expect(output.contains(words), "\(output)")
            }
            print(output)
        }
    }

    @Test func containerdRunsContainersThatReachEachOtherAndAHostPort() throws {
        try withPlayground { playground in
            // `ctr` publishes no port: the container asks for that of another runtime's pod.
            try NetworkNamespace.create(path: playground.namespacePath("server"))
            var cni = CNIRun(playground: playground)
            cni.extra["runtimeConfig"] = ["portMappings": [["hostPort": 8080, "containerPort": 80]]]
            #expect(try cni("ADD", pod: "server").status == 0)
            let server = try ChildProcess.start(
                "busybox", ["httpd", "-f", "-p", "80", "-h", "\(Checkout.path)/configs"],
                in: playground.namespace("server"), log: "\(playground.directory)/httpd.log")
            defer { ChildProcess.end(server) }
            let node = try #require(playground.address(of: "node1", .v4))
            let output = try run(
                "containerd", ["FETCH": "http://\(node):8080/single-node.json"], used: 1, playground)
            for words in [
                "a container fetches http://\(node):8080", "20 containers started at once", "nothing is left",
            ] {
                #expect(output.contains(words), "\(output)")
            }
            print(output)
        }
    }
}
