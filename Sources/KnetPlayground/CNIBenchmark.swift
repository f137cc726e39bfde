import FoundationEssentials
import KnetCore
import KnetLinux

/// Times whole executions of CNI plugins, as a runtime waits for them: knetd beside the reference plugins ptp and bridge,
/// and the floor beneath all of them, a veth made by netlink alone.
public struct CNIBenchmark {
    private struct Contender {
        let name: String
        let executable: String
        let configuration: JSONValue
    }

    private struct Times {
        let name: String
        var add: [Double] = []
        var del: [Double] = []
    }

    private static let referenceDirectory = "/usr/lib/cni"

    private var rows: [Times] = []

    /// - Parameter pods: attached and detached one after the other by each contender.
    public init(_ playground: Playground, pods: Int) throws {
        let subnet4: JSONValue = ["subnet": "10.90.0.0/16"]
        let subnet6: JSONValue = ["subnet": "fd90::/64"]
        func reference(_ type: String, _ title: String, _ ranges: [JSONValue]) -> Contender {
            Contender(
                name: title, executable: "\(Self.referenceDirectory)/\(type)",
                configuration: [
                    "cniVersion": "1.0.0", "name": .string(title.filter(\.isLetter)), "type": .string(type),
                    "isGateway": true,
                    "bridge": "bench0",
                    "ipam": [
                        "type": "host-local", "dataDir": .string("\(playground.directory)/ipam"),
                        "ranges": .array(ranges.map { [$0] }), "routes": [["dst": "0.0.0.0/0"]],
                    ],
                ])
        }
        let contenders = [
            Contender(
                name: "knetd, dual stack", executable: playground.executable,
                configuration: playground.networkConfiguration("node1")),
            reference("ptp", "ptp, IPv4 alone", [subnet4]), reference("bridge", "bridge, IPv4 alone", [subnet4]),
            reference("ptp", "ptp, dual stack", [subnet4, subnet6]),
        ]
        for contender in contenders where FileManager.default.fileExists(atPath: contender.executable) {
            // Duplicate address detection makes a dual-stack ADD of the reference last seconds: a few tell enough.
            let count = contender.name == "ptp, dual stack" ? min(pods, 5) : pods
            rows.append(try Self.time(contender, pods: count, playground))
        }
        rows.append(try Self.timeFloor(pods: pods, playground))
    }

    private static func time(_ contender: Contender, pods: Int, _ playground: Playground) throws -> Times {
        var times = Times(name: contender.name)
        let node = try playground.namespace("node1")
        for index in 0..<pods {
            let path = playground.namespacePath("bench\(index)")
            try NetworkNamespace.create(path: path)
            defer { NetworkNamespace.remove(path: path) }
            for command in ["ADD", "DEL"] {
                let start = ContinuousClock.now
                let outcome = try ChildProcess.run(
                    contender.executable, [],
                    environment: [
                        "CNI_COMMAND": command, "CNI_CONTAINERID": "bench-\(index)", "CNI_IFNAME": "eth0",
                        "CNI_NETNS": path,
                        "CNI_PATH": referenceDirectory,
                    ], input: contender.configuration.text(), in: node)
                let milliseconds = (ContinuousClock.now - start) / .milliseconds(1)
                guard outcome.status == 0 else {
                    throw Playground.Failure("\(contender.name) \(command): \(outcome.output)\(outcome.errors)")
                }
                if command == "ADD" { times.add.append(milliseconds) } else { times.del.append(milliseconds) }
            }
        }
        return times
    }

    private static func timeFloor(pods: Int, _ playground: Playground) throws -> Times {
        var times = Times(name: "bare veth by netlink")
        try playground.namespace("node1").run {
            let socket = try NetlinkSocket()
            for _ in 0..<pods {
                let peer = try NetworkNamespace.anonymous()
                var start = ContinuousClock.now
                try socket.createVeth(
                    VethRequest(
                        name: "bench", mac: MACAddress(derivedFrom: "a"), alias: nil, peerName: "eth0",
                        peerMAC: MACAddress(derivedFrom: "b"), peerNamespace: peer.number, mtu: 1500))
                times.add.append((ContinuousClock.now - start) / .milliseconds(1))
                start = ContinuousClock.now
                try socket.request(.deleteLink(name: "bench"))
                times.del.append((ContinuousClock.now - start) / .milliseconds(1))
            }
        }
        return times
    }

    /// The times as a table, in milliseconds, with ratios to knetd's median.
    public var text: String {
        let base = rows.first
        let head = ["ms", "n", "ADD p50", "p95", "p99", "×", "DEL p50", "p95", "p99", "×"]
        let body = rows.map { row in
            [row.name, "\(row.add.count)"] + Self.cells(row.add, base?.add ?? []) + Self.cells(row.del, base?.del ?? [])
        }
        return TextTable.text([head] + body)
    }

    private static func cells(_ times: [Double], _ base: [Double]) -> [String] {
        [
            quantile(times, 0.5), quantile(times, 0.95), quantile(times, 0.99),
            quantile(times, 0.5) / quantile(base, 0.5),
        ].map {
            "\(($0 * 10).rounded() / 10)"
        }
    }

    private static func quantile(_ values: [Double], _ part: Double) -> Double {
        let sorted = values.sorted()
        return sorted.isEmpty ? 0 : sorted[min(Int(Double(sorted.count) * part), sorted.count - 1)]
    }
}
