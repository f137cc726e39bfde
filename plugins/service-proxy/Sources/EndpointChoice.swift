import KnetCore

/// One endpoint of a Service's port, as its slices tell it.
struct Candidate: Hashable {
    let backend: Backend
    let isReady: Bool
    let isServing: Bool
    let isTerminating: Bool
    let node: String?
    let zoneHints: [String]
    let nodeHints: [String]
}

/// Which endpoints are used, by kube-proxy's rules: ready ones, else those that still serve while they end; near ones where
/// all endpoints carry hints.
struct EndpointChoice {
    /// For clients that no policy keeps to this node.
    let everywhere: Set<Backend>
    /// On this node, for a policy `Local`.
    let here: Set<Backend>
    /// Why an endpoint is in neither.
    let unused: [Backend: String]
    /// Those that end, used or not.
    let ending: Set<Backend>

    var all: Set<Backend> { everywhere.union(here).union(unused.keys) }

    /// Whether there are any, on whatever node.
    var isEmpty: Bool { everywhere.isEmpty && here.isEmpty }

    init(_ candidates: [Candidate], node: String, zone: String?) {
        let ready = candidates.filter(\.isReady)
        let ending = candidates.filter { $0.isServing && $0.isTerminating }
        let local = ready.filter { $0.node == node }
        let localEnding = ending.filter { $0.node == node }
        let near = Self.near(ready, node: node, zone: zone)
        everywhere = Set((ready.isEmpty ? ending : near).map(\.backend))
        here = Set((local.isEmpty ? localEnding : local).map(\.backend))
        self.ending = Set(candidates.filter(\.isTerminating).map(\.backend))
        let used = everywhere.union(here)
        unused = Dictionary(
            candidates.filter { !used.contains($0.backend) }.map { ($0.backend, Self.reason($0)) }
        ) { first, _ in first }
    }

    /// Hints count where every endpoint has some and one of them is for this node, or else for its zone.
    private static func near(_ ready: [Candidate], node: String, zone: String?) -> [Candidate] {
        let onNode = ready.filter { $0.nodeHints.contains(node) }
        if !onNode.isEmpty, ready.allSatisfy({ !$0.nodeHints.isEmpty }) { return onNode }
        guard let zone else { return ready }
        let inZone = ready.filter { $0.zoneHints.contains(zone) }
        return !inZone.isEmpty && ready.allSatisfy { !$0.zoneHints.isEmpty } ? inZone : ready
    }

    private static func reason(_ candidate: Candidate) -> String {
        if candidate.isReady { return "its hints are for other zones or nodes" }
        if candidate.isTerminating {
            return candidate.isServing
                ? "it is terminating, and others are ready" : "it is terminating and does not serve"
        }
        return "it is not ready"
    }
}
