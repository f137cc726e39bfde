import HashTreeCollections
import KnetCore

/// Which node answers for which address: the same answer on every node that knows the same, without a word between them.
struct Ownership {
    /// Who answers for an address, and why.
    struct Answer: Hashable {
        /// `nil`: nobody.
        let node: String?
        /// Why it is not this node; `nil` where it is.
        let reason: String?
    }

    /// What is known of another node.
    enum Life: Hashable {
        case alive
        /// With the reason.
        case away(String)
    }

    private let ownClass: String
    private let pools: [AddressPool]
    private let nodeMatcher: LabelMatcher
    /// Of Services whose addresses are answered for.
    private(set) var answers: [ObjectKey: [IPAddress: Answer]] = [:]
    private var services: Set<ObjectKey> = []
    private var candidates: Set<String> = []

    init(_ settings: LoadBalancer.Settings, _ layer2: LoadBalancer.Settings.Layer2) {
        ownClass = settings.loadBalancerClass
        let chosen = Set(layer2.pools)
        pools = settings.pools.filter { chosen.isEmpty || chosen.contains($0.name) }.map(AddressPool.init)
        nodeMatcher = LabelMatcher(layer2.nodeSelector)
    }

    /// This node's addresses.
    func owned(by node: String) -> Set<IPAddress> {
        answers.values.reduce(into: []) { owned, answers in
            owned.formUnion(answers.filter { $0.value.node == node }.keys)
        }
    }

    /// Decides anew what the change concerns.
    /// - Parameter life: of the other nodes; it may have changed where `keys` has nodes.
    mutating func follow(
        _ keys: Set<ObjectKey>, in state: ClusterState, own node: String, life: (Node) -> Life
    ) {
        var changed = keys.filter { $0.kind == .service }
        for key in changed {
            let isOurs = state.services[key].flatMap { AddressRequest($0, class: ownClass) } != nil
            if isOurs { services.insert(key) } else { services.remove(key) }
            if !isOurs { answers[key] = nil }
        }
        if keys.contains(where: { $0.kind == .node }) { changed.formUnion(services) }
        guard !changed.isEmpty else { return }
        var lives: [String: Life] = [:]
        for member in state.nodes.values where nodeMatcher.matches(member.metadata.labels ?? [:]) {
            guard member.metadata.labels?[Self.excluded] == nil else { continue }
            lives[member.key.name] = member.key.name == node ? .alive : life(member)
        }
        for key in changed where services.contains(key) {
            answers[key] = state.services[key].map { Self.answers($0, in: state, lives, own: node, pools) }
        }
    }

    private static let excluded = "node.kubernetes.io/exclude-from-external-load-balancers"

    private static func answers(
        _ service: Service, in state: ClusterState, _ lives: [String: Life], own: String, _ pools: [AddressPool]
    ) -> [IPAddress: Answer] {
        let addresses = service.balancedAddresses.filter { address in pools.contains { $0.contains(address) } }
        guard !addresses.isEmpty else { return [:] }
        let usable = state.usableEndpoints(of: service.key)
        let isLocal = service.spec?.externalTrafficPolicy == "Local"
        var places = lives
        if isLocal { places = lives.filter { place in usable.contains { $0.nodeName == place.key } } }
        let alive = places.filter { $0.value == .alive }.keys
        return Dictionary(
            uniqueKeysWithValues: Set(addresses).map { address in
                guard !usable.isEmpty else { return (address, Answer(node: nil, reason: "no endpoint is ready")) }
                guard let chosen = Self.chosen(alive, address) else {
                    let away = places.compactMap { name, life in
                        if case .away(let reason) = life { "\(name): \(reason)" } else { nil }
                    }.sorted()
                    let rest = away.isEmpty ? "no node with an endpoint may answer" : away.joined(separator: "; ")
                    return (address, Answer(node: nil, reason: rest))
                }
                if chosen == own { return (address, Answer(node: own, reason: nil)) }
                let why =
                    places[own] == nil
                    ? (lives[own] == nil ? "this node may not" : "no endpoint is on this node") : "\(chosen) does"
                return (address, Answer(node: chosen, reason: why))
            })
    }

    /// The node with the highest hash: when one goes, only its addresses move (rendezvous hashing, Thaler and Ravishankar 1998).
    private static func chosen(_ nodes: some Collection<String>, _ address: IPAddress) -> String? {
        nodes.max { one, other in
            let (a, b) = (StableHash.of("\(one)#\(address)"), StableHash.of("\(other)#\(address)"))
            return a == b ? one < other : a < b
        }
    }
}
