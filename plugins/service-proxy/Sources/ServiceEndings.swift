import KnetCore
import Synchronization

/// Streams to pods that are no more. A pod that ends is in its slice until it is gone; its streams are left alone until then,
/// and would wait for an answer that nobody gives after.
final class ServiceEndings: Sendable {
    private struct State {
        /// Endpoints that are ending, of the Services that have some.
        var ending: [ObjectKey: Set<Backend>] = [:]
        /// To be reset when the kernel leads nobody there any more.
        var streams: [(frontend: FrontendID, endpoint: IPAddress)] = []
    }

    private let state = Mutex(State())
    /// Notes what a Service was planned with.
    func note(_ key: ObjectKey, _ plan: ServicePlan?) {
        state.withLock { state in
            let before = state.ending[key] ?? []
            let ending = plan?.ports.reduce(into: Set<Backend>()) { $0.formUnion($1.choice.ending) } ?? []
            state.ending[key] = ending.isEmpty ? nil : ending
            let ended = before.subtracting(ending)
            guard let plan, !ended.isEmpty else { return }
            let known = plan.ports.reduce(into: Set<IPAddress>()) { $0.formUnion($1.choice.all.map(\.address)) }
            for address in Set(ended.map(\.address)).subtracting(known) {
                for id in plan.frontends.keys where id.transport == .tcp && id.address.family == address.family {
                    state.streams.append((id, address))
                }
            }
        }
    }

    /// Those that ended since this was last asked.
    func take() -> [(frontend: FrontendID, endpoint: IPAddress)] {
        state.withLock { state in
            defer { state.streams = [] }
            return state.streams
        }
    }
}
