import HashTreeCollections
import KnetCore
import Synchronization

/// What a dataplane that remembers answers is told, by the objects alone: the table in the kernel is made from them too.
final class PolicyAnswers: Sendable {
    private let exchange: VerdictExchange
    /// Both are empty where nobody asks.
    private let addresses = Mutex(PodAddresses())
    private let state = Mutex<ClusterState?>(nil)
    private let isFollowing = Atomic(false)

    init(_ exchange: VerdictExchange) { self.exchange = exchange }

    func judge(by judge: @escaping VerdictExchange.Judge) { exchange.judge(by: judge) }

    /// - Parameters:
    ///   - keys: whose entries may differ now.
    ///   - isUsable: whether everything is known.
    ///   - isNew: whether it was not before.
    func follow(_ keys: Set<ObjectKey>, in state: ClusterState, isUsable: Bool, isNew: Bool) {
        guard exchange.isRemembered else {
            if isFollowing.exchange(false, ordering: .relaxed) {
                addresses.withLock { $0 = PodAddresses() }
                self.state.withLock { $0 = nil }
            }
            return
        }
        let isFirst = !isFollowing.exchange(true, ordering: .relaxed)
        let all = isFirst ? Set(state.keys) : keys
        let touched = addresses.withLock { $0.follow(all, in: state) }
        self.state.withLock { $0 = isUsable ? state : nil }
        exchange.forget(isNew ? nil : touched)
    }

    /// - Returns: `nil` where it cannot be said yet.
    func answer(_ question: VerdictExchange.Question, _ index: PolicyIndex) -> Bool? {
        guard let state = state.withLock({ $0 }) else { return nil }
        func end(_ address: IPAddress, isLocal: Bool) -> PolicyPeer? {
            let (holder, isKnown) = addresses.withLock { ($0.holder(of: address), $0.isLocal(address)) }
            // A pod that is about to come or has just gone: the dataplane knows more, or less.
            if isKnown != isLocal { return nil }
            switch holder {
            case .several: return nil
            case .nobody: return PolicyPeer(address, in: state)
            case .pod(let key):
                let pod = state.pods[key]
                // What holds for a pod of this node is not known without its object.
                return pod == nil && isLocal ? nil : PolicyPeer(address, pod: pod, in: state)
            }
        }
        guard let source = end(question.source, isLocal: question.isLocal.source),
            let destination = end(question.destination, isLocal: question.isLocal.destination)
        else { return nil }
        func admits(_ direction: Direction, _ subject: PolicyPeer, _ other: PolicyPeer) -> Bool {
            Decision(
                direction, subject: subject, other: other, transport: question.transport, port: question.port, index
            ).outcome == .accept
        }
        return (!question.isLocal.source || admits(.egress, source, destination))
            && (!question.isLocal.destination || admits(.ingress, destination, source))
    }
}
