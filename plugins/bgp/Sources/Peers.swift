import HashTreeCollections
import KnetCore

/// Which sessions this node has, from the configuration and the state of the cluster.
struct Peers {
    let settings: BGP.Settings
    let network: Configuration.Network
    /// Passwords by the files they stand in.
    let passwords: [String: String]

    /// - Returns: `nil` while this node is not known.
    func wanted(
        in state: ClusterState, identifier: UInt32
    ) -> (peers: [PeerKey: Speaker.Wanted], ranges: [Speaker.WantedRange], live: [IPAddress: BGP.Settings.Liveness])? {
        guard let local = state.local else { return nil }
        let labels = state.nodes[.node(local.name)]?.metadata.labels ?? [:]
        let nextHops = local.uplinks.mapValues(\.address)
        var peers: [PeerKey: Speaker.Wanted] = [:]
        var ranges: [Speaker.WantedRange] = []
        var live: [IPAddress: BGP.Settings.Liveness] = [:]
        if let mesh = settings.mesh {
            let reflectors = mesh.reflectors.map { LabelMatcher($0) }
            let isReflector = reflectors?.matches(labels) ?? false
            for node in state.nodes.values where node.key.name != local.name {
                // Both ends take the first family that both have.
                let families = IPFamily.allCases.filter { nextHops[$0] != nil }
                guard let address = families.lazy.compactMap({ node.internalIP($0) }).first,
                    isReadable(mesh.passwordFile)
                else { continue }
                let isOtherReflector = reflectors?.matches(node.metadata.labels ?? [:]) ?? false
                guard reflectors == nil || isReflector || isOtherReflector else { continue }
                peers[PeerKey(address: address)] = Speaker.Wanted(
                    settings: PeerSettings(
                        session: SessionSettings(
                            localAS: UInt32(settings.as), identifier: identifier, peerAS: UInt32(settings.as)),
                        imports: imports(nil), routeLimit: 100_000,
                        isClient: isReflector && !isOtherReflector, nextHops: nextHops),
                    transport: Transport(
                        port: settings.port == 0 ? 179 : settings.port, password: password(mesh.passwordFile),
                        source: nextHops[address.family]))
                live[address] = mesh.bfd
            }
        }
        for peer in settings.peers where peer.nodeSelector.map({ LabelMatcher($0).matches(labels) }) ?? true {
            guard isReadable(peer.passwordFile) else { continue }
            let wanted = wanted(peer, identifier, nextHops)
            if let address = peer.address {
                peers[PeerKey(address: address)] = wanted
                live[address] = peer.bfd
            } else if let range = peer.range {
                ranges.append(Speaker.WantedRange(range: range, wanted: wanted))
            }
        }
        return (peers, ranges, live)
    }

    private func wanted(
        _ peer: BGP.Settings.Peer, _ identifier: UInt32, _ nextHops: [IPFamily: IPAddress]
    ) -> Speaker.Wanted {
        var session = SessionSettings(
            localAS: UInt32(settings.as), identifier: identifier, peerAS: peer.as == 0 ? nil : UInt32(peer.as))
        session.families = Set(peer.families.map { $0 == "IPv6" ? .v6 : .v4 })
        session.holdTime = UInt16(peer.holdSeconds)
        session.isPassive = peer.isPassive
        session.isDynamic = peer.range != nil
        session.gracefulRestart = peer.restartSeconds == 0 ? nil : .init(time: UInt16(peer.restartSeconds))
        session.connectRetry.first = .seconds(peer.connectSeconds)
        return Speaker.Wanted(
            settings: PeerSettings(
                session: session, imports: imports(peer.imports), routeLimit: peer.routeLimit,
                allowedOwnAS: peer.allowOwnAS, nextHops: nextHops),
            transport: Transport(port: peer.port, password: password(peer.passwordFile), hops: peer.ttlSecurity))
    }

    /// Without its password there is no session: not one without it.
    private func isReadable(_ file: String?) -> Bool { file == nil || password(file) != nil }

    private func password(_ file: String?) -> String? { file.flatMap { passwords[$0] } }

    private func imports(_ filters: [BGP.Settings.Import]?) -> [PrefixFilter] {
        guard let filters else { return network.podCIDRs.map { PrefixFilter($0) } }
        return filters.map {
            PrefixFilter($0.cidr, lengths: ($0.ge ?? $0.cidr.prefixLength)...($0.le ?? $0.cidr.family.bits))
        }
    }
}
