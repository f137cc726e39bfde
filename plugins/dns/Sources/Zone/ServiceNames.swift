import KnetCore

/// The names of a Service as Kubernetes' specification has them
/// (https://github.com/kubernetes/dns/blob/master/docs/specification.md, 1.1.0).
struct ServiceNames {
    /// The version of the specification.
    static let specification = "1.1.0"

    private let service: Service
    private let domain: DomainName
    private let name: DomainName
    private(set) var table: NameTable
    /// What is wrong with the object; the rest of it has its names.
    private(set) var problem: String?

    /// - Parameters:
    ///   - isPrimary: whether addresses are named in this domain.
    /// - Returns: `nil` where the Service's name is none of a domain.
    init?(_ service: Service, slices: [EndpointSlice], in domain: DomainName, isPrimary: Bool, into table: NameTable) {
        guard let namespace = DomainName.child(service.key.namespace, "svc", of: domain),
            let name = namespace.child(service.key.name)
        else { return nil }
        self.service = service
        self.domain = domain
        self.name = name
        self.table = table
        if service.spec?.type == "ExternalName" {
            addExternalName()
        } else if service.isHeadless {
            addEndpoints(slices, isPrimary: isPrimary)
        } else {
            addClusterIPs(isPrimary: isPrimary)
        }
    }

    private mutating func addExternalName() {
        let text = service.spec?.externalName ?? ""
        guard IPAddress(text) == nil, let target = DomainName(text), target != .root else {
            problem =
                "spec.externalName: found \"\(text)\", allowed is a domain name"
                + (IPAddress(text) == nil
                    ? "" : "; for an address make a Service without a selector, and an EndpointSlice")
            return
        }
        table.add([.one(RecordType.cname, target.wire, ttl: table.ttl)], at: name, below: domain)
    }

    private mutating func addClusterIPs(isPrimary: Bool) {
        let addresses = service.clusterAddresses
        guard !addresses.isEmpty else { return }
        table.addAddresses(addresses, at: name, below: domain)
        for port in service.spec?.ports ?? [] {
            addServer(port.name, port.protocol, port: port.port, at: [name])
        }
        if isPrimary { for address in addresses { table.addPointer(from: address, to: name) } }
    }

    private mutating func addEndpoints(_ slices: [EndpointSlice], isPrimary: Bool) {
        var all: Set<IPAddress> = []
        var named: [DomainName: Set<IPAddress>] = [:]
        var servers: [Server: Set<DomainName>] = [:]
        for slice in slices {
            for endpoint in slice.endpoints ?? [] where isPublished(endpoint) {
                for address in endpoint.addresses.lazy.compactMap({ IPAddress($0) }) {
                    guard let target = name.child(endpoint.hostname ?? address.dashed) else { continue }
                    all.insert(address)
                    named[target, default: []].insert(address)
                    for port in slice.ports ?? [] {
                        guard let number = port.port else { continue }
                        let server = Server(name: port.name ?? "", transport: port.protocol, port: number)
                        servers[server, default: []].insert(target)
                    }
                }
            }
        }
        table.addAddresses(all, at: name, below: domain)
        for (target, addresses) in named {
            table.addAddresses(addresses, at: target, below: domain)
            if isPrimary { for address in addresses { table.addPointer(from: address, to: target) } }
        }
        for (server, targets) in servers.sorted(by: { $0.key.port < $1.key.port }) {
            addServer(server.name, server.transport, port: server.port, at: targets.sorted())
        }
    }

    private struct Server: Hashable {
        let name: String
        let transport: String?
        let port: Int
    }

    private func isPublished(_ endpoint: EndpointSlice.Endpoint) -> Bool {
        endpoint.conditions?.ready ?? true || service.spec?.publishNotReadyAddresses == true
    }

    /// Ports without a name have no record.
    private mutating func addServer(_ port: String?, _ transport: String?, port number: Int, at targets: [DomainName]) {
        guard let port, !port.isEmpty, let number = UInt16(exactly: number),
            let above = name.child("_\((transport ?? "TCP").lowercased())"), let owner = above.child("_\(port)")
        else { return }
        var set = RecordSet(RecordType.srv, ttl: table.ttl)
        for target in targets {
            var data: [UInt8] = []
            // Priority, and weight: all alike.
            data.append(short: 0)
            data.append(short: 100)
            data.append(short: number)
            set.add(data + target.wire)
        }
        table.add([set], at: owner, below: domain)
    }
}

extension Service {
    var isHeadless: Bool { spec?.clusterIP == "None" || spec?.clusterIPs?.contains("None") == true }

    /// The ClusterIPs, one for each family at most.
    var clusterAddresses: [IPAddress] {
        guard spec?.type != "ExternalName" else { return [] }
        return (spec?.clusterIPs ?? spec?.clusterIP.map { [$0] } ?? []).compactMap { IPAddress($0) }
    }
}

extension IPAddress {
    /// As a label: `10-42-0-7`, `fd42--7`.
    var dashed: String { String(description.map { $0 == "." || $0 == ":" ? "-" : $0 }) }

    /// From a label.
    init?(dashed label: some StringProtocol) {
        let isVersion4 = label.count { $0 == "-" } == 3 && !label.contains("--")
        self.init(String(label.map { $0 == "-" ? isVersion4 ? "." : ":" : $0 }))
    }
}
