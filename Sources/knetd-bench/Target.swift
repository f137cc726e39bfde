import KnetCore

/// A promise of the design, held against what was measured.
struct Target {
    let what: String
    /// In `unit`; `nil` where this run did not measure it.
    let measured: Double?
    /// Not to be exceeded.
    let limit: Double
    let unit: String

    var isMet: Bool? { measured.map { $0 <= limit } }

    private var verdict: String { isMet.map { $0 ? "met" : "missed" } ?? "not measured" }

    var json: JSONValue {
        [
            "what": .string(what), "measured": Figure.json(measured), "target": Figure.json(limit),
            "unit": .string(unit), "verdict": .string(verdict),
        ]
    }

    static func text(_ targets: [Target]) -> String {
        let rows = targets.map {
            [$0.what, Figure.text($0.measured), "≤ \(Figure.text($0.limit))", $0.unit, $0.verdict]
        }
        return "Targets\n" + Columns.text([["", "measured", "target", "", ""]] + rows)
    }

    /// - Parameter sections: that were measured.
    static func all(_ report: Report, _ sections: [SectionName]) -> [Target] {
        sections.flatMap { section in
            switch section {
            case .cni: cni(report)
            case .path: path(report)
            case .start: start(report)
            case .api: api(report)
            case .services: services(report)
            case .dns: dns(report)
            case .policies: policies(report)
            }
        }
    }

    /// The faster of the reference chains counts.
    private static func cni(_ report: Report) -> [Target] {
        let full = [
            ("ADD with hostPort, of the reference chain", "cni.add", 1.0 / 8),
            ("DEL with hostPort, of the reference chain", "cni.del", 1.0 / 8),
            ("ADD with hostPort, at once, of the reference chain", "cni.add.at-once", 1.0 / 15),
            ("DEL with hostPort, at once, of the reference chain", "cni.del.at-once", 1.0 / 15),
        ].map { what, table, limit in
            let ratios = [CNISection.iptables, CNISection.nftables].compactMap {
                report.ratio(table, CNISection.knetd, of: $0)
            }
            return Target(what: what, measured: ratios.max(), limit: limit, unit: "×")
        }
        let dual = report.median("cni.dual.add", CNISection.knetd)
        return full + [Target(what: "dual-stack ADD", measured: dual, limit: 12, unit: "ms")]
    }

    private static func services(_ report: Report) -> [Target] {
        func p99(_ size: Int) -> Double? {
            report.tables.first { $0.id == "services.change" }?.row(ServicesSection.name(size))?.quantile(0.99)
        }
        func median(_ table: String, _ size: Int) -> Double? { report.median(table, ServicesSection.name(size)) }
        return [100, 1000, 10_000, 50_000].flatMap { size in
            [
                Target(what: "one endpoint of \(size) services, p99", measured: p99(size), limit: 1, unit: "ms"),
                Target(
                    what: "processor time for it", measured: median("services.work", size), limit: 0.5, unit: "ms"),
            ]
        } + [
            Target(
                what: "10000 services from nothing", measured: median("services.cold", 10_000), limit: 1000, unit: "ms"),
            Target(
                what: "50000 services from nothing", measured: median("services.cold", 50_000), limit: 5000, unit: "ms"),
            Target(
                what: "connect with 50000 services, of that with 10",
                measured: divide(median("services.connect", 50_000), median("services.connect", 10)), limit: 1.05,
                unit: "×"),
        ]
            + [10, 10_000].map { size in
                let name = ServicesSection.socketName(size)
                return Target(
                    what: "connect at the socket with \(size) services, of the endpoint itself",
                    measured: report.ratio("services.connect", name, of: ServicesSection.direct(beside: name)),
                    limit: 1.05,
                    unit: "×")
            }
    }

    private static func dns(_ report: Report) -> [Target] {
        let beside = [1_000, 10_000].flatMap { size in
            DNSContents.Kind.allCases.map { kind in
                func work(_ server: String) -> Double? { report.median("dns.work", DNSSection.row(server, kind, size)) }
                return Target(
                    what: "processor time of a query, of unbound's: \(kind.rawValue), \(size) services",
                    measured: divide(work(DNSServer.knetd), work(DNSServer.unbound)), limit: 1, unit: "×")
            }
        }
        let serial = DNSContents.Kind.allCases.compactMap {
            report.median("dns.serial", DNSSection.row(DNSServer.knetd, $0, 10_000))
        }
        // With the cluster's state, which is there for all plugins.
        let memory = [0, 10_000].map { report.median("dns.memory", DNSSection.memoryRow(DNSSection.withModule, $0)) }
        let growth = memory[0].flatMap { empty in memory[1].map { $0 - empty } }
        let change = report.tables.first { $0.id == "dns.change" }?.row(DNSChanges.row(10_000))?.quantile(0.99)
        return beside + [
            Target(
                what: "from query to answer, p50 of the slowest kind", measured: serial.max(), limit: 70, unit: "µs"),
            Target(what: "memory that 10000 services take", measured: growth, limit: 25, unit: "MiB"),
            Target(what: "a changed service in answers, p99", measured: change, limit: 2, unit: "ms"),
        ]
    }

    private static func policies(_ report: Report) -> [Target] {
        let changes = report.tables.first { $0.id == "policies.change" }
        let request = "policies.path.request.alone"
        let throughput = "policies.path.throughput.one-processor"
        return [PoliciesSection.remote, PoliciesSection.local].map { row in
            Target(
                what: "a changed label of \(row), p99", measured: changes?.row(row)?.quantile(0.99), limit: 10,
                unit: "ms")
        } + [
            Target(
                what: "request p50, with policies, of that without",
                measured: report.ratio(request, PolicyPath.policies, of: PolicyPath.tracked), limit: 1.03, unit: "×"),
            Target(
                what: "stream on one processor, without policies, of that with",
                measured: report.ratio(throughput, PolicyPath.tracked, of: PolicyPath.policies), limit: 1.03, unit: "×"),
        ]
    }

    private static func path(_ report: Report) -> [Target] {
        let (request, throughput) = ("request.alone", "throughput.one-processor")
        func target(
            _ what: String, _ table: String, _ row: String, of base: String, limit: Double
        ) -> Target {
            Target(what: what, measured: report.ratio("path.\(table)", row, of: base), limit: limit, unit: "×")
        }
        return [
            target(
                "request p50, same node, routed, of bare veth", "same.\(request)", PathSection.routed,
                of: SameNode.bareVeth, limit: 1.10),
            target(
                "request p50, same node, routed, of the bridge", "same.\(request)", PathSection.routed,
                of: SameNode.bridge, limit: 1),
            target(
                "stream on one processor, two nodes: Flannel's way, of overlay", "cross.\(throughput)",
                CrossNode.flannel, of: PathSection.overlay, limit: 1),
            target(
                "request p50, two nodes: overlay, of Flannel's way", "cross.\(request)", PathSection.overlay,
                of: CrossNode.flannel, limit: 1),
            target(
                "request p50, same node, ebpf, of bare veth", "same.\(request)", PathSection.ebpf,
                of: SameNode.bareVeth, limit: 1.05),
            target(
                "request p50, same node, ebpf, of bare veth, whoever else used the core", "same.request",
                PathSection.ebpf, of: SameNode.bareVeth, limit: 1.05),
            target(
                "stream on one processor, same node: bare veth, of ebpf", "same.\(throughput)", SameNode.bareVeth,
                of: PathSection.ebpf, limit: 1 / 0.95),
        ]
            + ServicePaths.sizes.map { size in
                target(
                    "connect and close, ebpf, ClusterIP among \(size), of the pod itself", "service.connect",
                    ServicePaths.ebpf(size), of: ServicePaths.direct, limit: 1.05)
            }
    }

    private static func start(_ report: Report) -> [Target] {
        let memory = report.tables.first { $0.id == "start.resident" }?.rows.compactMap(\.median).max()
        let ready = report.tables.first { $0.id == "start.ready" }?.rows.compactMap(\.median).max()
        return [
            Target(what: "start to ready", measured: ready, limit: 150, unit: "ms"),
            Target(what: "idle, resident memory", measured: memory, limit: 40, unit: "MiB"),
            Target(
                what: "executable, stripped", measured: report.median("start.size", StartSection.executable), limit: 45,
                unit: "MB"),
        ]
    }

    private static func api(_ report: Report) -> [Target] {
        [
            Target(
                what: "resident memory, a large cluster, all kinds",
                measured: report.median("api.steady", APISection.everything), limit: 120, unit: "MiB"),
            Target(
                what: "resident memory, a large cluster, Nodes alone",
                measured: report.median("api.steady", APISection.nodesOnly), limit: 40, unit: "MiB"),
        ]
    }

    private static func divide(_ value: Double?, _ other: Double?) -> Double? {
        guard let value, let other, other > 0 else { return nil }
        return value / other
    }
}
