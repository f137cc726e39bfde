import KnetCore
import KnetLinux

/// Host ports: the packets to a port of this node that belong to a pod. The chains are always the same; a pod's ports are
/// elements of maps.
enum HostPortTable {
    static let name = "inet knetd_hostports"
    /// Its sets and maps, with the keyword that lists them.
    static let sets = [
        ("map", "exact4"), ("map", "exact6"), ("map", "any4"), ("map", "any6"), ("set", "own4"), ("set", "own6"),
    ].map { (keyword: $0, name: "\(name) \($1)") }

    /// - Parameter ranges: this node's ranges of pods. The first address of each, which no pod has, stands for the node
    ///   where a pod would otherwise see itself or a loopback address as the sender.
    static func table(ranges: [CIDR]) -> NftablesTable {
        let maps = IPFamily.allCases.map { family in
            let n = family.rawValue
            let type = "ipv\(n)_addr"
            return """
                \tmap exact\(n) {
                \t\ttype \(type) . inet_proto . inet_service : \(type) . inet_service
                \t}

                \tmap any\(n) {
                \t\ttype inet_proto . inet_service : \(type) . inet_service
                \t}

                \tset own\(n) {
                \t\ttype \(type) . \(type)
                \t}


                """
        }
        let sources = ranges.sorted().flatMap { range -> [String] in
            let ip = range.family == .v4 ? "ip" : "ip6"
            let own = "\(ip) saddr . \(ip) daddr @own\(range.family.rawValue) snat \(ip) to \(range.base)"
            // IPv6 has no `route_localnet`: what is for ::1 stays on the node.
            let loopback = "oifname \"\(podLinks)\" ip saddr 127.0.0.0/8 snat ip to \(range.base)"
            return range.family == .v4 ? [own, loopback] : [own]
        }
        return NftablesTable(
            name: name,
            text: """
                table \(name) {
                \(maps.joined())\tchain prerouting {
                \t\ttype nat hook prerouting priority dstnat; policy accept;
                \t\tfib daddr type local goto translate
                \t}

                \tchain output {
                \t\ttype nat hook output priority -100; policy accept;
                \t\tip6 daddr ::1 return
                \t\tfib daddr type local goto translate
                \t}

                \tchain translate {
                \t\tdnat ip to ip daddr . meta l4proto . th dport map @exact4
                \t\tdnat ip to meta l4proto . th dport map @any4
                \t\tdnat ip6 to ip6 daddr . meta l4proto . th dport map @exact6
                \t\tdnat ip6 to meta l4proto . th dport map @any6
                \t}

                \tchain postrouting {
                \t\ttype nat hook postrouting priority srcnat; policy accept;
                \(sources.map { "\t\t\($0)\n" }.joined())\t}

                \tchain input {
                \t\ttype filter hook input priority filter; policy accept;
                \t\tiifname "\(podLinks)" ip daddr 127.0.0.0/8 goto loopback
                \t}

                \tchain loopback {
                \t\tct state established,related accept
                \t\tdrop
                \t}
                }

                """)
    }

    private static let podLinks = "\(Attachment.hostLinkPrefix)*"

    /// What one pod's host ports need in the maps.
    static func elements(_ attachment: Attachment) -> [NftablesElement] {
        guard !attachment.options.hostPorts.isEmpty else { return [] }
        return attachment.addresses.flatMap { address -> [NftablesElement] in
            let n = address.family.rawValue
            let ports = attachment.options.hostPorts.compactMap { hostPort -> NftablesElement? in
                if let only = hostPort.address, only.family != address.family { return nil }
                let key = "\(hostPort.transport.number) . \(hostPort.port)"
                let value = "\(address) . \(hostPort.podPort)"
                guard let exact = hostPort.address, exact.number != 0 else {
                    return NftablesElement(set: "\(name) any\(n)", key: key, value: value)
                }
                return NftablesElement(set: "\(name) exact\(n)", key: "\(exact) . \(key)", value: value)
            }
            return ports.isEmpty
                ? [] : ports + [NftablesElement(set: "\(name) own\(n)", key: "\(address) . \(address)")]
        }
    }

    /// Connections of UDP that a change leaves going the old way: a client that keeps its port would never be looked at anew.
    /// - Parameter local: this node's own addresses, asked for only where they count.
    static func staleConnections(
        added: [NftablesElement], removed: [NftablesElement], local: () throws -> [IPAddress]
    ) rethrows -> [ConnectionFilter] {
        let udp = HostPort.Transport.udp
        let gone = hostPorts(removed).filter { $0.value.contains { $0.transport == udp } }.keys
        var filters = gone.map { ConnectionFilter(transport: udp.number, answerer: $0) }
        let new = hostPorts(added).flatMap { pod, ports in ports.filter { $0.transport == udp }.map { (pod.family, $0) }
        }
        guard !new.isEmpty else { return filters }
        let local = try local()
        for (family, hostPort) in new {
            for address in local
            where address.family == family && [nil, address, IPAddress(family, number: 0)].contains(hostPort.address) {
                filters.append(
                    ConnectionFilter(
                        transport: udp.number, destination: address, destinationPort: hostPort.port))
            }
        }
        return filters
    }

    /// Whether the pod can be reached by way of 127.0.0.1.
    static func usesLoopback(_ attachment: Attachment) -> Bool {
        attachment.options.hostPorts.contains { ($0.address ?? .v4(0)).family == .v4 }
    }

    /// The host ports that the elements stand for, by the pod's address: `elements`, the other way round.
    static func hostPorts(_ elements: [NftablesElement]) -> [IPAddress: [HostPort]] {
        var found: [IPAddress: [HostPort]] = [:]
        for element in elements {
            let key = element.key.split(separator: " ").filter { $0 != "." }
            let value = element.value?.split(separator: " ").filter { $0 != "." } ?? []
            guard key.count >= 2, value.count == 2, let pod = IPAddress(value[0]), let podPort = UInt16(value[1]),
                let transport = HostPort.Transport.allCases.first(where: { "\($0.number)" == key[key.count - 2] }),
                let port = UInt16(key[key.count - 1])
            else { continue }
            let address = key.count == 3 ? IPAddress(key[0]) : nil
            found[pod, default: []].append(
                HostPort(transport: transport, port: port, podPort: podPort, address: address))
        }
        return found
    }
}
