import KnetCore

/// A prefix as one peer tells it.
struct LearntRoute: Hashable, Sendable {
    let nextHop: NextHop
    let attributes: PathAttributes
    /// Kept for a peer that is away, until it tells the route again.
    var isStale = false
}

/// A route among those to the same prefix.
struct Candidate {
    let peer: PeerKey
    let isExternal: Bool
    let identifier: UInt32
    let route: LearntRoute
}

/// Which of several routes to a prefix are used (RFC 4271 §9.1.2): the best one, and those that are as good for all that counts beyond who told
/// them.
enum Decision {
    /// - Returns: the best first; empty for none.
    static func best(_ candidates: [Candidate]) -> [Candidate] {
        guard candidates.count > 1 else { return candidates }
        var left = keep(candidates) { -Int($0.route.attributes.localPreference ?? 100) }
        left = keep(left) { $0.route.attributes.asPath.length }
        left = keep(left) { Int($0.route.attributes.origin.rawValue) }
        // Of one neighbour AS the lowest MED counts; a route without one has 0.
        left = Dictionary(grouping: left) { $0.route.attributes.asPath.first ?? 0 }.values.flatMap { group in
            keep(group) { Int($0.route.attributes.med ?? 0) }
        }
        left = keep(left) { $0.isExternal ? 0 : 1 }
        return left.sorted { one, other in
            let (a, b) = (identifier(one), identifier(other))
            if a != b { return a < b }
            let (short, long) = (one.route.attributes.clusterList.count, other.route.attributes.clusterList.count)
            return short == long ? one.peer < other.peer : short < long
        }
    }

    /// RFC 4456 §9.
    private static func identifier(_ candidate: Candidate) -> UInt32 {
        candidate.route.attributes.originatorID ?? candidate.identifier
    }

    private static func keep(_ candidates: [Candidate], _ rank: (Candidate) -> Int) -> [Candidate] {
        let least = candidates.lazy.map(rank).min()
        return candidates.filter { rank($0) == least }
    }
}
