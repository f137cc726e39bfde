import FoundationEssentials
import KnetCore

/// The same names for all servers: services with an address and a named port each, and names outside of the cluster.
struct DNSContents {
    let services: Int

    static let upstreamDomain = "example.test"
    /// Names outside of the cluster.
    static let external = 100
    /// Of the cluster DNS Service.
    static let clusterIP = IPAddress.v4(0x0A60_FFFE)

    /// What is asked for.
    enum Kind: String, CaseIterable {
        case address = "A of a service"
        case server = "SRV of a service"
        case missing = "a name that does not exist"
        case external = "A of an external name, held"
    }

    private func name(_ index: Int) -> String { "service-\(index).default.svc.cluster.local" }
    private func address(_ index: Int) -> IPAddress { .v4(0x0A60_0001 + UInt32(index)) }

    /// Lines for dnsperf, in an order that does not favour any cache.
    func queries(_ kind: Kind) -> [String] {
        let step = 7_919
        return (0..<max(services, Self.external)).map { index in
            let service = index * step % services
            return switch kind {
            case .address: "\(name(service)) A"
            case .server: "_http._tcp.\(name(service)) SRV"
            case .missing: "none-\(name(service)) SRV"
            case .external: "host-\(index % Self.external).\(Self.upstreamDomain) A"
            }
        }
    }

    // MARK: In each server's form

    /// For knetd.
    var manifests: JSONValue {
        let all: [JSONValue] = (0..<services).map { index in
            [
                "apiVersion": "v1", "kind": "Service",
                "metadata": ["name": .string("service-\(index)"), "namespace": "default"],
                "spec": [
                    "clusterIP": .string("\(address(index))"),
                    "ports": [["name": "http", "port": 80, "protocol": "TCP"]],
                ],
            ]
        }
        let own: JSONValue = [
            "apiVersion": "v1", "kind": "Service", "metadata": ["name": "kube-dns", "namespace": "kube-system"],
            "spec": [
                "clusterIP": .string("\(Self.clusterIP)"), "ports": [["name": "dns", "port": 53, "protocol": "UDP"]],
            ],
        ]
        return ["apiVersion": "v1", "kind": "List", "items": .array(all + [own])]
    }

    /// Records as in a zone file.
    private var records: [String] {
        (0..<services).flatMap { index in
            [
                "\(name(index)). 5 IN A \(address(index))",
                "_http._tcp.\(name(index)). 5 IN SRV 0 100 80 \(name(index)).",
            ]
        }
    }

    private static let start =
        "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"

    var clusterZone: String {
        ([Self.start, "cluster.local. 5 IN NS ns.dns.cluster.local.", "ns.dns.cluster.local. 5 IN A \(Self.clusterIP)"]
            + records)
            .joined(separator: "\n") + "\n"
    }

    static var upstreamZone: String {
        let head = [
            "\(upstreamDomain). 3600 IN SOA ns.\(upstreamDomain). a.\(upstreamDomain). 1 7200 1800 86400 3600",
            "\(upstreamDomain). 3600 IN NS ns.\(upstreamDomain).", "ns.\(upstreamDomain). 3600 IN A 127.0.0.1",
        ]
        let hosts = (0..<external).map { "host-\($0).\(upstreamDomain). 3600 IN A 192.0.2.\($0 + 1)" }
        return (head + hosts).joined(separator: "\n") + "\n"
    }

    /// For unbound, as local data.
    var localData: String {
        (["local-zone: \"cluster.local.\" static", "local-data: \"\(Self.start)\""]
            + records.map { "local-data: \"\($0)\"" })
            .map { "  \($0)\n" }.joined()
    }
}
