import KnetCore

/// What a domain has beside Services.
enum DomainNames {
    /// The name of the server in a domain, as CoreDNS has it.
    static func server(of domain: DomainName) -> DomainName? { DomainName.child("ns", "dns", of: domain) }

    /// - Parameter servers: the addresses at which this server is asked.
    static func part(_ domain: DomainName, servers: [IPAddress], ttl: UInt32) -> ZonePart? {
        var table = NameTable(ttl: ttl)
        guard let version = domain.child("dns-version"), let server = server(of: domain) else { return nil }
        let text = Array(ServiceNames.specification.utf8)
        table.add([.one(RecordType.txt, [UInt8(text.count)] + text, ttl: ttl)], at: version, below: domain)
        table.add([.one(RecordType.ns, server.wire, ttl: ttl)], at: domain, below: nil)
        table.addAddresses(servers, at: server, below: domain)
        return table.part
    }

    /// A namespace exists for Services and pods, though nothing may be in it.
    static func part(namespace: String, in domains: [DomainName], withPods: Bool) -> ZonePart? {
        var table = NameTable(ttl: 0)
        for domain in domains {
            for kind in withPods ? ["svc", "pod"] : ["svc"] {
                if let name = DomainName.child(namespace, kind, of: domain) { table.addEmpty(name, below: domain) }
            }
        }
        return table.part
    }

    /// A pod by its addresses: `10-42-0-7.default.pod.cluster.local`.
    static func part(_ pod: Pod, in domains: [DomainName], ttl: UInt32) -> ZonePart? {
        var table = NameTable(ttl: ttl)
        for domain in domains {
            let namespace = DomainName.child(pod.key.namespace, "pod", of: domain)
            for address in pod.addresses {
                if let name = namespace?.child(address.dashed) {
                    table.addAddresses([address], at: name, below: domain)
                }
            }
        }
        return table.part
    }

    /// Names that the configuration gives, with the addresses' names.
    static func part(hosts: [String: [String]], ttl: UInt32) -> ZonePart? {
        var table = NameTable(ttl: ttl)
        for (text, addresses) in hosts.sorted(by: { $0.key < $1.key }) {
            guard let name = DomainName(text) else { continue }
            let addresses = addresses.compactMap { IPAddress($0) }
            table.addAddresses(addresses, at: name, below: nil)
            for address in addresses where !address.isLoopback { table.addPointer(from: address, to: name) }
        }
        return table.part
    }
}

extension DomainName: Comparable {
    static func < (a: DomainName, b: DomainName) -> Bool { a.wire.lexicographicallyPrecedes(b.wire) }

    /// `label.parent.domain`.
    static func child(_ label: String, _ parent: String, of domain: DomainName) -> DomainName? {
        domain.child(parent)?.child(label)
    }
}
