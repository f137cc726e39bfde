import HashTreeCollections

/// Which pod has an address. It follows the state in proportion to what changes.
public struct PodAddresses: Sendable {
    public enum Holder: Equatable, Sendable {
        case nobody
        case pod(ObjectKey)
        /// One is about to go, or they claim what they have not.
        case several
    }

    /// Pods and attachments that have it, by address; more than one only where an attachment and its Pod do, or something is wrong.
    private var claims: [IPAddress: [(by: ObjectKey, pod: ObjectKey?)]] = [:]
    private var addresses: [ObjectKey: [IPAddress]] = [:]

    public init() {}

    /// - Returns: the addresses that these pods and attachments have or had.
    @discardableResult
    public mutating func follow(_ keys: some Sequence<ObjectKey>, in state: ClusterState) -> Set<IPAddress> {
        var touched: Set<IPAddress> = []
        for key in keys where key.kind == .pod || key.kind == .attachment {
            for address in addresses.removeValue(forKey: key) ?? [] {
                touched.insert(address)
                claims[address]?.removeAll { $0.by == key }
                if claims[address]?.isEmpty == true { claims[address] = nil }
            }
            let (new, pod) = Self.claim(of: key, in: state)
            if new.isEmpty { continue }
            addresses[key] = new
            for address in new {
                touched.insert(address)
                claims[address, default: []].append((key, pod))
            }
        }
        return touched
    }

    private static func claim(of key: ObjectKey, in state: ClusterState) -> ([IPAddress], pod: ObjectKey?) {
        if key.kind == .attachment { return (state.attachments[key]?.addresses ?? [], state.attachments[key]?.pod) }
        return (state.pods[key].map { $0.isInPodNetwork ? $0.addresses : [] } ?? [], key)
    }

    public func holder(of address: IPAddress) -> Holder {
        let pods = Set((claims[address] ?? []).compactMap(\.pod))
        return pods.count > 1 ? .several : pods.first.map(Holder.pod) ?? .nobody
    }

    /// Whether it is an address of a pod on this node.
    public func isLocal(_ address: IPAddress) -> Bool {
        claims[address]?.contains { $0.by.kind == .attachment } == true
    }
}
