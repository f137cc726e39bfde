import HashTreeCollections
import KnetCore
import KnetDataplane

/// What `knetd status` shows.
struct StatusReport: Codable {
    struct Plugin: Codable {
        let name: String
        let entries: Int
        let inForce: Bool
        let faults: [String]
    }
    struct Peer: Codable {
        let name: String
        let addresses: [IPAddress]
        let podCIDRs: [CIDR]
        let fault: String?
    }
    struct Allocation: Codable {
        let pod: String
        let containerID: String
        let interface: String
        let link: String
        let addresses: [IPAddress]
        let hostPorts: [String]
    }
    struct Range: Codable {
        let cidr: CIDR
        let used: Int
        let size: Int
    }
    struct Uplink: Codable {
        let link: String
        let address: IPAddress
        let mtu: Int
        let isPresent: Bool
    }

    let version: String
    let node: String
    let ready: Bool
    let obstacles: [String]
    let uplinks: [Uplink]
    /// Devices whose checksums the kernel computes, because the hardware's arrive wrong.
    let faultyOffloads: [String]
    let ranges: [Range]
    let plugins: [Plugin]
    /// Rules of a kube-proxy that ran before, where services are knetd's.
    let kubeProxyRules: [String]
    let peers: [Peer]
    let allocations: [Allocation]
    /// Where the cluster's objects come from.
    let source: SourceReport
    let reloadFault: String?
    /// What was wrong with the allocations' store at the start.
    let storeFault: String?
    /// The last CNI requests that failed, oldest first.
    let failures: [CNIMetrics.Failure]

    init(
        generation: Generation, attachments: [Attachment], failures: [CNIMetrics.Failure], kubeProxyRules: [String],
        reloadFault: String?, storeFault: String?
    ) {
        self.kubeProxyRules = kubeProxyRules
        self.storeFault = storeFault
        self.failures = failures
        let state = generation.state.current
        let reports = generation.reconcilers.map { ($0.name, $0.report) }
        version = Version.current
        node = generation.nodeName
        obstacles = generation.obstacles
        ready = obstacles.isEmpty
        uplinks = (state.local?.uplinks ?? [:]).sorted { $0.key < $1.key }.map {
            Uplink(link: $0.value.link, address: $0.value.address, mtu: $0.value.mtu, isPresent: $0.value.isPresent)
        }
        faultyOffloads = (state.local?.faultyOffloads ?? []).sorted()
        let used = attachments.flatMap(\.addresses)
        ranges = (state.local?.podCIDRs ?? []).map { cidr in
            Range(cidr: cidr, used: used.count(where: cidr.contains), size: AddressRange(cidr).count)
        }
        plugins = reports.map { name, report in
            Plugin(
                name: name, entries: report.entries, inForce: report.isInForce,
                faults: report.faults.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" } + report.otherFaults
                    + generation.serviceFaults(of: name))
        }
        peers = state.nodes.values.filter { $0.metadata.name != generation.nodeName }
            .sorted { $0.metadata.name < $1.metadata.name }
            .map { node in
                Peer(
                    name: node.metadata.name, addresses: IPFamily.allCases.compactMap { node.internalIP($0) },
                    podCIDRs: node.podCIDRs, fault: reports.lazy.compactMap { $0.1.faults[node.key] }.first)
            }
        allocations = attachments.filter { $0.phase != .leaving }.map {
            Allocation(
                pod: $0.title, containerID: $0.id.containerID, interface: $0.id.interface, link: $0.hostLink,
                addresses: $0.addresses, hostPorts: $0.options.hostPorts.map(\.description))
        }
        source = generation.source.report
        self.reloadFault = reloadFault
    }

    private var sourceLines: [String] {
        var state = "live"
        if !source.isLive {
            state = source.isFromSnapshot ? "from a snapshot" : "not reached"
            state += ", last heard \(source.staleSeconds) s ago"
        }
        var lines = ["source   \(source.title)  \(state)"]
        lines += source.troubles.map { "  ! \($0)" }
        lines += source.faults.map { "  ! skipped: \($0)" }
        lines += source.kinds.map {
            "  \($0.kind)  \($0.objects) objects, \($0.lists) lists, \($0.watches) watches, \($0.events) events"
                + ($0.isLive ? "" : "  not followed")
        }
        return lines
    }

    /// The report for people.
    var text: String {
        var lines = ["knetd \(version) on node \(node): \(ready ? "ready" : "not ready")"]
        lines += obstacles.map { "  ! \($0)" }
        if let storeFault { lines.append("  ! \(storeFault)") }
        if let reloadFault { lines.append("  ! last reload refused: \(reloadFault)") }
        lines += sourceLines
        lines += uplinks.map {
            "uplink   \($0.link)  \($0.address)  MTU \($0.mtu)" + ($0.isPresent ? "" : "  gone; what rests on it stays")
        }
        lines += faultyOffloads.map { "offload  \($0)  off: checksums by the hardware arrive wrong" }
        lines += ranges.map { "range    \($0.cidr)  \($0.used) of \($0.size) in use" }
        for plugin in plugins {
            lines.append(
                "plugin   \(plugin.name)  \(plugin.entries) entries  \(plugin.inForce ? "in force" : "not in force yet")"
            )
            lines += plugin.faults.map { "  ! \($0)" }
        }
        lines += kubeProxyRules.map {
            "  ! a kube-proxy left \($0); once it does not run any more, `knetd cleanup --kube-proxy` removes that"
        }
        lines += peers.map { peer in
            let addresses = peer.addresses.map(\.description).joined(separator: " ")
            let ranges = peer.podCIDRs.map(\.description).joined(separator: " ")
            return "peer     \(peer.name)  \(addresses)  \(ranges)"
                + (peer.fault == nil ? "" : "  unreachable, see above")
        }
        lines += allocations.map {
            "pod      \($0.pod)  \($0.interface)  \($0.addresses.map(\.description).joined(separator: " "))  \($0.link)"
                + $0.hostPorts.map { "  \($0)" }.joined()
        }
        lines += failures.map { "failed   \($0.time)  \($0.command) \($0.container)  \($0.reason)" }
        return lines.joined(separator: "\n")
    }
}
