import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux

/// The same services in the layouts of others, written from their documentation, by their own tools.
enum OtherLayout: CaseIterable {
    /// kube-proxy's iptables mode: a chain for each service and for each endpoint
    /// (https://kubernetes.io/docs/reference/networking/virtual-ips/#proxy-mode-iptables); a change is written as kube-proxy's
    /// partial synchronisation writes it, by `iptables-restore --noflush`, without the listing that it begins with.
    case iptables
    /// A verdict map to a chain for each service, as in kube-proxy's nftables mode; through one libnftables context, without
    /// listing and without a set for each service.
    case chains

    var name: String {
        switch self {
        case .iptables: "kube-proxy's iptables layout"
        case .chains: "a chain for each service"
        }
    }

    /// Services beyond which it takes minutes.
    static let limit = 10_000

    /// The quicker of the two tools where both are there: loading takes the other the square of the number of chains.
    static let restore =
        ["/usr/sbin/iptables-legacy-restore", "/usr/sbin/iptables-restore"]
        .first { FileManager.default.isExecutableFile(atPath: $0) } ?? "iptables-restore"

    func row(_ size: Int) -> String { "\(name), \(size) services" }
}

/// One layout in the namespace of the calling thread.
struct RunningLayout {
    private let layout: OtherLayout
    private let contents: ServiceContents
    /// The real server.
    private let probe: IPAddress
    private let nftables: Nftables

    init(_ layout: OtherLayout, _ contents: ServiceContents, probe: IPAddress = ConnectServer.address) throws {
        self.layout = layout
        self.contents = contents
        self.probe = probe
        nftables = try Nftables()
    }

    /// - Returns: milliseconds for all services and the one that leads to a real server.
    func load() throws -> Double {
        let services = (0..<contents.services).map { endpoints(of: $0, version: 0) } + [[probe]]
        switch layout {
        case .iptables:
            let chains = services.enumerated().map { number, endpoints in Self.declarations(number, endpoints) }
            let rules = services.enumerated().map { number, endpoints in
                "-A KUBE-SERVICES -d \(address(number))/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-\(number)\n"
                    + self.rules(number, endpoints)
            }
            let text =
                "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n" + chains.joined()
                + "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n"
                + rules.joined() + "COMMIT\n"
            return try restore(text)
        case .chains:
            let chains = services.enumerated().map { number, endpoints in self.chain(number, endpoints) }
            let elements = services.indices.map { "\(address($0)) . tcp . 80 : goto service-\($0)" }
            let text = """
                table ip others {
                \(chains.joined())
                map services {
                type ipv4_addr . inet_proto . inet_service : verdict
                elements = { \(elements.joined(separator: ",\n")) }
                }
                chain services { ip daddr . meta l4proto . th dport vmap @services; }
                chain prerouting { type nat hook prerouting priority dstnat; jump services; }
                chain output { type nat hook output priority -100; jump services; }
                }

                """
            return try measured { try nftables.run(text) }
        }
    }

    /// - Returns: milliseconds for one endpoint that is replaced.
    func change(_ number: Int, version: Int) throws -> Double {
        let (old, new) = (endpoints(of: number, version: version - 1), endpoints(of: number, version: version))
        switch layout {
        case .iptables:
            let gone = old.filter { !new.contains($0) }
            let text =
                "*nat\n" + Self.declarations(number, new) + gone.map { ":\(Self.chain(number, $0)) - [0:0]\n" }.joined()
                + rules(number, new) + gone.map { "-X \(Self.chain(number, $0))\n" }.joined() + "COMMIT\n"
            return try restore(text)
        case .chains:
            let gone = old.filter { !new.contains($0) }
            let text =
                new.filter { !old.contains($0) }.map {
                    "add chain ip others endpoint-\(number)-\($0)\nadd rule ip others endpoint-\(number)-\($0) meta l4proto tcp dnat to \($0):8080\n"
                }.joined() + "flush chain ip others service-\(number)\nadd rule ip others service-\(number) "
                + Self.draw(number, new) + "\n"
                + gone.map { "delete chain ip others endpoint-\(number)-\($0)\n" }.joined()
            return try measured { try nftables.run(text) }
        }
    }

    // MARK: Services

    private func address(_ number: Int) -> String {
        number < contents.services
            ? contents.service(number).spec?.clusterIP ?? "" : "\(ServiceContents.probeAddress)"
    }

    private func endpoints(of number: Int, version: Int) -> [IPAddress] {
        (contents.slice(number, version: version).endpoints ?? []).compactMap { IPAddress($0.addresses[0]) }
    }

    // MARK: iptables

    private static func chain(_ number: Int, _ endpoint: IPAddress) -> String {
        "KUBE-SEP-\(number)-\(endpoint.number)"
    }

    private static func declarations(_ number: Int, _ endpoints: [IPAddress]) -> String {
        ":KUBE-SVC-\(number) - [0:0]\n" + endpoints.map { ":\(chain(number, $0)) - [0:0]\n" }.joined()
    }

    private func rules(_ number: Int, _ endpoints: [IPAddress]) -> String {
        let draws = endpoints.enumerated().map { index, endpoint in
            let left = endpoints.count - index
            let chance = left > 1 ? "-m statistic --mode random --probability \(1 / Double(left)) " : ""
            return "-A KUBE-SVC-\(number) \(chance)-j \(Self.chain(number, endpoint))\n"
        }
        let ends = endpoints.map { endpoint in
            let chain = Self.chain(number, endpoint)
            return "-A \(chain) -s \(endpoint)/32 -j KUBE-MARK-MASQ\n"
                + "-A \(chain) -p tcp -m tcp -j DNAT --to-destination \(endpoint):8080\n"
        }
        let outside =
            "-A KUBE-SVC-\(number) ! -s 10.42.0.0/16 -d \(address(number))/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ\n"
        return outside + draws.joined() + ends.joined()
    }

    private func restore(_ text: String) throws -> Double {
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("knetd-bench-\(getpid()).rules").path
        try Data(text.utf8).write(to: URL(fileURLWithPath: file))
        defer { unlink(file) }
        return try measured {
            let outcome = try ChildProcess.run(OtherLayout.restore, ["--noflush", file], seconds: 300)
            guard outcome.status == 0 else { throw Failure(description: "\(OtherLayout.restore): \(outcome.errors)") }
        }
    }

    // MARK: nftables

    private func chain(_ number: Int, _ endpoints: [IPAddress]) -> String {
        endpoints.map { "chain endpoint-\(number)-\($0) { meta l4proto tcp dnat to \($0):8080; }\n" }.joined()
            + "chain service-\(number) { \(Self.draw(number, endpoints)); }\n"
    }

    private static func draw(_ number: Int, _ endpoints: [IPAddress]) -> String {
        let verdicts = endpoints.enumerated().map { "\($0) : goto endpoint-\(number)-\($1)" }.joined(separator: ", ")
        return "numgen random mod \(endpoints.count) vmap { \(verdicts) }"
    }

    private func measured(_ body: () throws -> Void) rethrows -> Double {
        let start = ContinuousClock.now
        try body()
        return (ContinuousClock.now - start) / .milliseconds(1)
    }

    private struct Failure: Error, CustomStringConvertible {
        let description: String
    }
}
