import HashTreeCollections
import KnetCore

/// Devices on which packets of other nodes' pods arrive.
struct Arrivals {
    /// The transport's own.
    private var own: Set<String> = []
    /// Those that lead to a node.
    private var ways: [ObjectKey: Set<String>] = [:]
    /// How many nodes each device leads to.
    private var counts: [String: Int] = [:]

    var links: Set<String> { own.union(counts.keys) }

    /// - Returns: whether there are others now.
    mutating func follow(_ keys: Set<ObjectKey>, in state: ClusterState, _ dataplane: EBPF) -> Bool {
        let before = links
        let isLocal = keys.contains(.local)
        if isLocal { own = state.local.map(dataplane.ownDevices) ?? [] }
        for key in isLocal ? keys.union(ways.keys).union(state.nodes.keys) : keys where key.kind == .node {
            for link in ways.removeValue(forKey: key) ?? [] {
                counts[link, default: 1] -= 1
                if counts[link] == 0 { counts[link] = nil }
            }
            guard let local = state.local, let node = state.nodes[key], node.metadata.name != local.name else {
                continue
            }
            let now = dataplane.devices(to: node, local: local)
            ways[key] = now
            for link in now { counts[link, default: 0] += 1 }
        }
        return links != before
    }
}
