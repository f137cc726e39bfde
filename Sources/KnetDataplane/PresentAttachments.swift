public import KnetCore
import KnetLinux

extension NetworkKernel {
    /// The attachments that the kernel holds, as far as it tells: for a store that was lost. Neither the pod's name nor its
    /// namespace is known; it is taken for gone when its link is.
    public func attachments() throws -> [Attachment] {
        let entries = try read()
        var routes: [String: [IPAddress]] = [:]
        var macs: [String: MACAddress] = [:]
        var elements: [NftablesElement] = []
        for entry in entries {
            switch entry {
            case .route(let route):
                guard let link = route.link, route.gateway == nil else { continue }
                routes[link, default: []].append(route.destination.base)
            case .neighbour(let link, _, let mac): macs[link] = mac
            case .element(let element): elements.append(element)
            default: break
            }
        }
        let hostPorts = HostPortTable.hostPorts(elements)
        return try podLinks().compactMap { link in
            guard let (id, network) = PodLink.identity(alias: link.alias ?? ""),
                Attachment.hostLink(of: id) == link.name, let addresses = routes[link.name]
            else { return nil }
            var options = AttachmentOptions()
            for hostPort in addresses.flatMap({ hostPorts[$0] ?? [] }) where !options.hostPorts.contains(hostPort) {
                options.hostPorts.append(hostPort)
            }
            let mac = macs[link.name]
            if mac != MACAddress(derivedFrom: "pod \(id)") { options.mac = mac }
            return Attachment(
                id: id, network: network, podNamespace: nil, podName: nil, namespacePath: "", namespaceCookie: 0,
                options: options, addresses: addresses.sorted(), phase: .attached)
        }
    }
}

extension PodLink {
    /// What `alias(of:)` tells; the network is empty where it did not fit.
    static func identity(alias: String) -> (AttachmentID, network: String)? {
        guard alias.hasPrefix(aliasPrefix) else { return nil }
        let words = alias.dropFirst(aliasPrefix.count).split(separator: " ")
        guard let id = words.first?.split(separator: "/", maxSplits: 1), id.count == 2 else { return nil }
        return (
            AttachmentID(containerID: String(id[0]), interface: String(id[1])),
            words.count > 1 ? String(words[1]) : ""
        )
    }
}
