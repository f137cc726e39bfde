public import KnetCore

/// All pairs of pods tried in both families, with ICMP, TCP, UDP, a large transfer and the path's MTU, and an outside host
/// through masquerade.
public struct ConnectivityReport {
    public struct Row {
        public let pod: String
        public let family: IPFamily
        public var peers = 0
        /// Microseconds of each echo.
        public var echoes: [Double] = []
        public var tcp = 0
        public var udp = 0
        public var transfers = 0
        public var mtu = 0
        public var outside = false

        /// Tries every kind of traffic to one address of a peer.
        /// - Returns: what failed.
        fileprivate mutating func tryPeer(
            _ peer: String, _ address: IPAddress, own: [IPAddress], mtu: Int, _ prober: Prober
        ) -> [String] {
            peers += 1
            var trial = Trial(name: "\(pod) to \(peer)")
            trial.attempt("ICMP") { echoes.append(try prober.ping(address)) }
            trial.attempt("TCP") {
                let seen = try prober.stream(address, bytes: 64)
                guard own.contains(seen) else {
                    throw Prober.Wrong(description: "the peer saw \(seen), not the pod's own address")
                }
                tcp += 1
            }
            trial.attempt("UDP") {
                try prober.datagram(address, bytes: 512)
                udp += 1
            }
            trial.attempt("1 MiB") {
                try prober.stream(address, bytes: ConnectivityReport.transfer)
                transfers += 1
            }
            trial.attempt("path MTU") {
                try prober.pathMTU(address, is: mtu)
                self.mtu += 1
            }
            return trial.failures
        }

        /// Tries the outside host, which must see the node's address.
        fileprivate mutating func tryOutside(_ address: IPAddress?, node: IPAddress?, _ prober: Prober) -> [String] {
            guard let address, let node else { return [] }
            var trial = Trial(name: "\(pod) to outside")
            trial.attempt("TCP") {
                let seen = try prober.stream(address, bytes: 64)
                guard seen == node else {
                    throw Prober.Wrong(description: "the outside host saw \(seen), not the node's \(node)")
                }
                outside = true
            }
            return trial.failures
        }
    }

    /// Collects what fails.
    private struct Trial {
        let name: String
        var failures: [String] = []

        mutating func attempt(_ what: String, _ body: () throws -> Void) {
            do { try body() } catch { failures.append("\(name), \(what): \(error)") }
        }
    }

    public private(set) var rows: [Row] = []
    public private(set) var failures: [String] = []

    /// Bytes of the large transfer.
    fileprivate static let transfer = 1 << 20

    /// - Parameter mtu: what the path's MTU must be, by family.
    public init(_ playground: Playground, mtu: [IPFamily: Int]) throws {
        let pods = playground.podNames
        let servers = try (pods + ["outside"]).map { try EchoServer(in: playground.namespace($0)) }
        defer { for server in servers { server.stop() } }
        for pod in pods {
            let own = playground.addresses(of: pod)
            let prober = Prober(try playground.namespace(pod))
            for family in IPFamily.allCases where own.contains(where: { $0.family == family }) {
                var row = Row(pod: pod, family: family)
                for peer in pods where peer != pod {
                    for address in playground.addresses(of: peer) where address.family == family {
                        failures += row.tryPeer(peer, address, own: own, mtu: mtu[family] ?? 0, prober)
                    }
                }
                let node = playground.node(of: pod).flatMap { playground.address(of: $0, family) }
                failures += row.tryOutside(playground.outsideAddress(family), node: node, prober)
                rows.append(row)
            }
        }
    }

    /// The report as a table.
    public var text: String {
        let head = ["pod", "family", "ICMP", "p50 µs", "TCP", "UDP", "1 MiB", "path MTU", "outside"]
        let body = rows.map { row -> [String] in
            let times = row.echoes.sorted()
            let median = times.isEmpty ? "–" : "\(Int(times[times.count / 2]))"
            func of(_ count: Int) -> String { "\(count)/\(row.peers)" }
            return [
                row.pod, row.family.description, of(times.count), median, of(row.tcp), of(row.udp), of(row.transfers),
                of(row.mtu), row.outside ? "ok" : "no",
            ]
        }
        return TextTable.text([head] + body)
    }
}
