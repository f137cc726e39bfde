import KnetCore
import Testing

@testable import DNSPlugin

/// Names and records of the cluster, as Kubernetes' specification has them.
@Suite struct ZoneTests {
    private static var world: World {
        var world = World()
        world.add("web", ["10.96.0.11", "fd96::b"])
        world.add("four", ["10.96.0.12"])
        world.add(
            Service(
                metadata: Metadata(name: "ports", namespace: "default"),
                spec: Service.Spec(
                    clusterIP: "10.96.0.13",
                    ports: [
                        .init(name: "http", protocol: nil, port: 80, targetPort: nil, nodePort: nil),
                        .init(name: "dns", protocol: "UDP", port: 53, targetPort: nil, nodePort: nil),
                    ])))
        world.add(
            Service(metadata: Metadata(name: "db", namespace: "default"), spec: Service.Spec(clusterIP: "None")),
            slices: [
                EndpointSlice(
                    name: "db-4", namespace: "default", service: "db", addressType: "IPv4",
                    endpoints: [
                        .init(addresses: ["10.42.0.50"], conditions: nil, hostname: "db-0", nodeName: nil),
                        .init(addresses: ["10.42.0.51"], conditions: nil, hostname: nil, nodeName: nil),
                        .init(
                            addresses: ["10.42.0.52"],
                            conditions: .init(ready: false, serving: true, terminating: true),
                            hostname: nil, nodeName: nil),
                    ],
                    ports: [.init(name: "pg", port: 5432, protocol: "TCP"), .init(name: nil, port: 9, protocol: "TCP")]),
                EndpointSlice(
                    name: "db-6", namespace: "default", service: "db", addressType: "IPv6",
                    endpoints: [.init(addresses: ["fd42::50"], conditions: nil, hostname: "db-0", nodeName: nil)],
                    ports: [.init(name: "pg", port: 5432, protocol: "TCP")]),
            ])
        world.add(
            Service(metadata: Metadata(name: "empty", namespace: "default"), spec: Service.Spec(clusterIP: "None")))
        world.add(
            Service(
                metadata: Metadata(name: "ext", namespace: "default"),
                spec: Service.Spec(type: "ExternalName", externalName: "www.example.com")))
        world.outside[domainName("www.example.com")] = [address("192.0.2.80")]
        world.contents.trustsPodNames = true
        return world
    }

    static let rows: [(name: String, type: String, code: ResponseCode, records: [String])] = [
        ("web.default.svc.cluster.local", "A", .noError, ["10.96.0.11"]),
        ("web.default.svc.cluster.local", "AAAA", .noError, ["fd96::b"]),
        ("WEB.Default.SVC.cluster.LOCAL", "A", .noError, ["10.96.0.11"]),
        ("four.default.svc.cluster.local", "AAAA", .noError, []),
        ("web.default.svc.cluster.local", "TXT", .noError, []),
        ("none.default.svc.cluster.local", "A", .nameError, []),
        ("web.other.svc.cluster.local", "A", .nameError, []),
        ("default.svc.cluster.local", "A", .noError, []),
        ("svc.cluster.local", "A", .noError, []),
        ("_http._tcp.ports.default.svc.cluster.local", "SRV", .noError, ["0 100 80 ports.default.svc.cluster.local."]),
        ("_dns._udp.ports.default.svc.cluster.local", "SRV", .noError, ["0 100 53 ports.default.svc.cluster.local."]),
        ("_tcp.ports.default.svc.cluster.local", "SRV", .noError, []),
        ("_dns._tcp.ports.default.svc.cluster.local", "SRV", .nameError, []),
        ("db.default.svc.cluster.local", "A", .noError, ["10.42.0.50", "10.42.0.51"]),
        ("db.default.svc.cluster.local", "AAAA", .noError, ["fd42::50"]),
        ("db-0.db.default.svc.cluster.local", "A", .noError, ["10.42.0.50"]),
        ("db-0.db.default.svc.cluster.local", "AAAA", .noError, ["fd42::50"]),
        ("10-42-0-51.db.default.svc.cluster.local", "A", .noError, ["10.42.0.51"]),
        ("10-42-0-52.db.default.svc.cluster.local", "A", .nameError, []),
        (
            "_pg._tcp.db.default.svc.cluster.local", "SRV", .noError,
            ["0 100 5432 10-42-0-51.db.default.svc.cluster.local.", "0 100 5432 db-0.db.default.svc.cluster.local."]
        ),
        ("empty.default.svc.cluster.local", "A", .nameError, []),
        ("ext.default.svc.cluster.local", "A", .noError, ["192.0.2.80", "www.example.com."]),
        ("ext.default.svc.cluster.local", "CNAME", .noError, ["www.example.com."]),
        ("11.0.96.10.in-addr.arpa", "PTR", .noError, ["web.default.svc.cluster.local."]),
        ("50.0.42.10.in-addr.arpa", "PTR", .noError, ["db-0.db.default.svc.cluster.local."]),
        (
            "b.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.d.f.ip6.arpa", "PTR", .noError,
            ["web.default.svc.cluster.local."]
        ),
        ("1-2-3-4.default.pod.cluster.local", "A", .noError, ["1.2.3.4"]),
        ("fd42--7.default.pod.cluster.local", "AAAA", .noError, ["fd42::7"]),
        ("1-2-3-4.default.pod.cluster.local", "AAAA", .noError, []),
        ("1-2-3-4.nowhere.pod.cluster.local", "A", .nameError, []),
        ("one.default.pod.cluster.local", "A", .nameError, []),
    ]

    @Test(arguments: rows) func aNameHasItsRecords(name: String, type: String, code: ResponseCode, records: [String])
        throws
    {
        let server = World.Server(Self.world)
        let answer = server.exchange(name, try #require(RecordType.number(type)), from: nil)
        #expect(answer.code == code)
        let shown = answer.records.filter { $0.type != RecordType.soa }.map {
            $0.text.split(separator: " ").dropFirst(3).joined(separator: " ")
        }
        #expect(shown.sorted() == records)
        // What is not there is said with the start of authority, for as long as all else.
        let starts = answer.records.filter { $0.type == RecordType.soa }
        #expect(starts.map { "\($0.name)" } == (records.isEmpty ? ["cluster.local."] : []))
        #expect(starts.allSatisfy { $0.ttl == 5 })
    }

    @Test func namesGoWithTheirServiceAndThoseBetweenWithTheLast() throws {
        var zone = Zone(domains: [domainName("cluster.local")])
        let parts = try ["a", "b"].map { name in
            var table = NameTable(ttl: 5)
            table.addAddresses(
                [address("10.96.0.1")], at: domainName("\(name).x.svc.cluster.local"), below: zone.domains[0])
            return try #require(table.part)
        }
        for part in parts { zone.insert(part) }
        func has(_ text: String) -> Bool { domainName(text).wire.withUnsafeBytes { zone.find($0) != nil } }
        #expect(zone.count == 4)
        zone.remove(parts[0])
        #expect(!has("a.x.svc.cluster.local") && has("b.x.svc.cluster.local") && has("x.svc.cluster.local"))
        zone.remove(parts[1])
        #expect(zone.count == 0)
    }

    @Test func beforeTheClusterIsKnownItsNamesAreAFailure() {
        var world = Self.world
        world.contents.zone.isComplete = false
        #expect(World.Server(world).ask("none.default.svc.cluster.local", RecordType.a).code == .serverFailure)
        #expect(World.Server(world).ask("web.default.svc.cluster.local", RecordType.a).code == .noError)
    }

    @Test(arguments: [512, 1232]) func whatDoesNotFitIsCutAtARecordAndSaidSo(limit: Int) throws {
        var world = World()
        world.add(
            Service(metadata: Metadata(name: "many", namespace: "default"), spec: Service.Spec(clusterIP: "None")),
            slices: [
                EndpointSlice(
                    name: "many", namespace: "default", service: "many", addressType: "IPv4",
                    endpoints: (1...200).map {
                        .init(addresses: ["10.42.0.\($0)"], conditions: nil, hostname: nil, nodeName: nil)
                    }, ports: [])
            ])
        let server = World.Server(world)
        let cut = server.exchange("many.default.svc.cluster.local", RecordType.a, from: nil, limit: limit)
        #expect(cut.flags & Flags.truncated != 0 && cut.length <= 512 && cut.records.count == (512 - 46) / 16)
        let whole = server.exchange("many.default.svc.cluster.local", RecordType.a, from: nil)
        #expect(whole.flags & Flags.truncated == 0 && whole.records.count == 200)
    }

    @Test func everyAddressComesFirstInItsTurn() {
        let server = World.Server(Self.world)
        let first = (0..<4).map { _ in
            server.exchange("db.default.svc.cluster.local", RecordType.a, from: nil).records.first?.text
        }
        #expect(Set(first).count == 2)
    }
}
