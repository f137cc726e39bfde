import HashTreeCollections
import KnetCore
import Synchronization

/// Nodes whose ranges overlap those of another node: of two, the one with the lesser name has its way, and the other gets
/// no routes, so that it cannot draw the first one's traffic by a longer prefix.
final class RangeConflicts: Sendable {
    struct Loser: Equatable, Sendable {
        let range: CIDR
        let winner: ObjectKey
    }

    private struct Known {
        var version: UInt64?
        var losers: [ObjectKey: Loser] = [:]
    }

    private let known = Mutex(Known())

    /// The losers as of `state`; found once for each version of it.
    func losers(in state: ClusterState) -> [ObjectKey: Loser] {
        known.withLock { known in
            if known.version != state.version {
                known = Known(version: state.version, losers: Self.find(state.nodes.values))
            }
            return known.losers
        }
    }

    /// The losers when last asked, whatever the state was.
    var lastLosers: [ObjectKey: Loser] { known.withLock { $0.losers } }

    /// One sweep over the ranges in order: those that hold the present one are on a stack.
    static func find(_ nodes: some Sequence<Node>) -> [ObjectKey: Loser] {
        let claims = nodes.flatMap { node in node.podCIDRs.map { (range: $0, key: node.key) } }
            .sorted { ($0.range, $0.key) < ($1.range, $1.key) }
        var losers: [ObjectKey: Loser] = [:]
        var enclosing: [(range: CIDR, key: ObjectKey)] = []
        for claim in claims {
            while let last = enclosing.last, !last.range.contains(claim.range) { enclosing.removeLast() }
            for other in enclosing where other.key != claim.key {
                let (winner, loser) = other.key < claim.key ? (other, claim) : (claim, other)
                if losers[loser.key] == nil { losers[loser.key] = Loser(range: loser.range, winner: winner.key) }
            }
            enclosing.append(claim)
        }
        return losers
    }
}
