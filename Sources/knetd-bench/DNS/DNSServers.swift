import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// A DNS server that is measured, in the node's namespace, with one thread on the last processor.
struct DNSServer {
    static let knetd = "knetd"
    static let unbound = "unbound"
    static let knot = "knot"

    let name: String
    let process: Int32
    let address: IPAddress
    let port: UInt16

    /// What other servers listen at, on the node's loopback device.
    private static let otherAddress = IPAddress.v4(0xA9FE_6301)
    private static let processor = "\(max(sysconf(Int32(_SC_NPROCESSORS_ONLN)) - 1, 0))"

    /// Keeps a command on the servers' processor.
    static let wrapper = ["taskset", "-c", processor]

    /// Keeps all threads there: knot gives its own another.
    func pin() throws { _ = try ChildProcess.run("taskset", ["-a", "-p", "-c", Self.processor, "\(process)"]) }

    static var processorNumber: UInt32 { UInt32(processor) ?? 0 }

    static func prepare(_ namespace: NetworkNamespace) throws {
        try namespace.run {
            let socket = try NetlinkSocket()
            try socket.request(.addAddress(otherAddress, prefixLength: 32, index: NetlinkSocket.index(of: "lo")))
        }
    }

    static func running(_ playground: Playground) -> DNSServer {
        DNSServer(name: knetd, process: playground.process(of: "node1"), address: DNSContents.clusterIP, port: 53)
    }

    static func startUnbound(_ contents: DNSContents, folder: String, in namespace: NetworkNamespace) throws
        -> DNSServer
    {
        let port: UInt16 = 5_399
        return try start(
            unbound, port, "unbound", ["-d", "-c", "\(folder)/unbound.conf"], folder: folder, in: namespace,
            files: [
                "unbound.conf": """
                server:
                  interface: \(otherAddress)
                  port: \(port)
                  num-threads: 1
                  do-daemonize: no
                  username: ""
                  chroot: ""
                  directory: "\(folder)"
                  pidfile: "\(folder)/unbound.pid"
                  use-syslog: no
                  verbosity: 0
                  access-control: 0.0.0.0/0 allow
                  do-not-query-localhost: no
                  module-config: "iterator"
                \(contents.localData)remote-control:
                  control-enable: no
                forward-zone:
                  name: "\(DNSContents.upstreamDomain)."
                  forward-addr: \(otherAddress)@\(knotPort)

                """
            ])
    }

    static let knotPort: UInt16 = 5_398
    static var upstream: String { "\(otherAddress):\(knotPort)" }

    /// It is the others' upstream too.
    static func startKnot(_ contents: DNSContents, folder: String, in namespace: NetworkNamespace) throws -> DNSServer {
        try start(
            knot, knotPort, "knotd", ["-c", "\(folder)/knot.conf"], folder: folder, in: namespace,
            files: [
                "cluster.zone": contents.clusterZone, "upstream.zone": DNSContents.upstreamZone,
                "knot.conf": """
                server:
                  rundir: "\(folder)"
                  udp-workers: 1
                  tcp-workers: 1
                  background-workers: 1
                  listen: \(otherAddress)@\(knotPort)
                database:
                  storage: "\(folder)"
                zone:
                  - domain: cluster.local
                    file: "\(folder)/cluster.zone"
                  - domain: \(DNSContents.upstreamDomain)
                    file: "\(folder)/upstream.zone"

                """,
            ])
    }

    private static func start(
        _ name: String, _ port: UInt16, _ program: String, _ arguments: [String], folder: String,
        in namespace: NetworkNamespace, files: [String: String]
    ) throws -> DNSServer {
        for (file, text) in files { try Data(text.utf8).write(to: URL(fileURLWithPath: "\(folder)/\(file)")) }
        // Debian keeps servers where users do not look.
        let path = try ChildProcess.run("/bin/sh", ["-c", "PATH=$PATH:/usr/sbin command -v \(program) || true"]).output
        guard let executable = path.split(separator: "\n").first else { throw Missing(program: name) }
        let process = try ChildProcess.start(
            "/usr/bin/env", wrapper + [String(executable)] + arguments, in: namespace, log: "\(folder)/\(name).log")
        return DNSServer(name: name, process: process, address: otherAddress, port: port)
    }

    func stop() {
        guard name != Self.knetd else { return }
        kill(process, SIGKILL)
        waitpid(process, nil, 0)
    }

    struct Missing: Error, CustomStringConvertible {
        let program: String
        var description: String { "\(program) is not installed" }
    }
}
