import HashTreeCollections
import KnetCore
import Logging
import Synchronization

/// Gives addresses and writes them into statuses, while this process is the one that does.
final class StatusLoop: Sendable {
    /// What the loop knows while it is elected.
    private struct Term {
        var allocator: Allocator
        /// What the server had when it was asked, or was given by us; what comes by the watch may be older for a while.
        var known: [ObjectKey: (status: ServiceAddresses, at: ContinuousClock.Instant)] = [:]
        /// Statuses that are to be written, and when.
        var due: [ObjectKey: ContinuousClock.Instant] = [:]
        var failures: [ObjectKey: Int] = [:]
        /// What is to be told once everything is written.
        var notices: [ClusterNotice] = []
    }

    private struct Shared {
        var state = ClusterState()
        var changed: Set<ObjectKey> = []
        var term: Term?
        /// Why Services could not be written or listed.
        var fault: String?
        var writes = 0
    }

    private let settings: LoadBalancer.Settings
    private let kinds: Set<ObjectKey.Kind>
    private let writing: WriterExchange
    private let logger: Logger
    private let shared = Mutex(Shared())
    private let wakes: AsyncStream<Void>
    private let waker: AsyncStream<Void>.Continuation

    /// So long the watch may take to tell what we wrote.
    private static let echo = Duration.seconds(3)

    init(_ settings: LoadBalancer.Settings, kinds: Set<ObjectKey.Kind>, writing: WriterExchange, logger: Logger) {
        self.settings = settings
        self.kinds = kinds
        self.writing = writing
        self.logger = logger
        (wakes, waker) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    var fault: String? { shared.withLock { $0.fault } }
    var writes: Int { shared.withLock { $0.writes } }

    /// Addresses of each pool, used and in all; empty where another process gives them.
    var figures: [(pool: String, family: IPFamily, used: Int, of: Int)] {
        shared.withLock { shared in
            guard let allocator = shared.term?.allocator else { return [] }
            return allocator.pools.flatMap { pool in
                IPFamily.allCases.filter(pool.hasFamily).map {
                    (pool.name, $0, allocator.used(of: pool, $0), pool.count($0))
                }
            }
        }
    }

    func follow(_ keys: Set<ObjectKey>, in state: ClusterState) {
        shared.withLock {
            $0.state = state
            $0.changed.formUnion(keys.filter { [.service, .namespace, .node].contains($0.kind) })
        }
        waker.yield()
    }

    func run() async {
        await withDiscardingTaskGroup { group in
            group.addTask { [waker] in
                // An election changes nothing that is followed.
                while !Task.isCancelled {
                    waker.yield()
                    try? await Task.sleep(for: .milliseconds(200))
                }
                waker.finish()
            }
            for await _ in wakes {
                if Task.isCancelled { break }
                await pass()
            }
            group.cancelAll()
        }
    }

    private func pass() async {
        guard let writer = writing.writer, writer.isElected else {
            return shared.withLock { $0.term = nil }
        }
        let isBegun = shared.withLock { $0.term != nil }
        if !isBegun {
            guard shared.withLock({ $0.state.isComplete(kinds) }) else { return }
            do { try await begin(writer) } catch { return note("Services cannot be listed: \(error)") }
        }
        for key in decide() {
            if Task.isCancelled || !writer.isElected { return }
            await write(key, writer)
        }
        if let notice = shared.withLock({ $0.term?.notices.popLast() }) {
            // One that is lost is only not told.
            try? await writer.tell(notice)
            waker.yield()
        }
    }

    /// What an earlier writer gave is known before anything is given.
    private func begin(_ writer: any ClusterWriter) async throws {
        // What changes meanwhile is looked at afterwards.
        shared.withLock { $0.changed = [] }
        let services = Dictionary(try await writer.services().map { ($0.key, $0) }, uniquingKeysWith: { $1 })
        shared.withLock { shared in
            var term = Term(allocator: Allocator(settings))
            var keys = Set(shared.state.services.keys).union(shared.state.nodes.keys)
            keys.formUnion(shared.state.namespaces.keys)
            // Those too that the watch has not told yet: what they have is theirs.
            keys.formUnion(services.keys)
            for (key, service) in services where service.spec?.type == "LoadBalancer" {
                term.known[key] = (Self.told(service), .now)
            }
            for key in term.allocator.follow(keys, in: shared.state, told: services) { term.due[key] = .now }
            shared.term = term
        }
    }

    /// - Returns: Services whose statuses are to be written now.
    private func decide() -> [ObjectKey] {
        shared.withLock { shared in
            guard var term = shared.term else { return [] }
            shared.term = nil
            let changed = shared.changed
            shared.changed = []
            for key in changed where key.kind == .service { Self.note(shared.state.services[key], key, &term) }
            if !changed.isEmpty {
                for key in term.allocator.follow(changed, in: shared.state) { term.due[key] = .now }
            }
            let now = ContinuousClock.now
            let ready = term.due.filter { $0.value <= now }.map(\.key)
            shared.term = term
            return ready.sorted()
        }
    }

    /// Plans to look at a Service's status, which may have been changed by others.
    private static func note(_ service: Service?, _ key: ObjectKey, _ term: inout Term) {
        guard let service else {
            term.known[key] = nil
            term.due[key] = nil
            return
        }
        if let known = term.known[key], known.status != told(service) {
            term.due[key] = term.due[key] ?? known.at + echo
        } else {
            term.known[key] = nil
            term.due[key] = .now
        }
    }

    private static func told(_ service: Service) -> ServiceAddresses {
        ServiceAddresses(addresses: service.balancedAddresses, condition: service.addressCondition)
    }

    /// What is to stand in the status; `nil`: what stands there.
    private static func wanted(_ key: ObjectKey, _ term: Term, _ state: ClusterState) -> ServiceAddresses? {
        guard let service = state.services[key] else { return nil }
        let known = term.known[key].flatMap { .now < $0.at + echo ? $0.status : nil }
        let told = known ?? told(service)
        func condition(_ status: String, _ reason: String, _ message: String) -> Service.Status.Condition {
            .init(type: ServiceAddresses.conditionType, status: status, reason: reason, message: message)
        }
        let wanted: ServiceAddresses
        switch term.allocator.outcomes[key] {
        case .given(let addresses, let pools):
            let names = Set(pools).sorted().map { "\"\($0)\"" }.joined(separator: ", ")
            wanted = ServiceAddresses(
                addresses: addresses, condition: condition("True", "Allocated", "given from the pool \(names)"))
        case .refused(let refusal):
            // An address that knetd did not give is not its to take.
            wanted = ServiceAddresses(
                addresses: told.condition == nil ? nil : [],
                condition: condition("False", refusal.reason.rawValue, refusal.message))
        case nil:
            guard told.condition != nil else { return nil }
            wanted = ServiceAddresses(addresses: [], condition: nil)
        }
        let isThere = wanted.condition == told.condition && wanted.addresses ?? told.addresses == told.addresses
        return isThere ? nil : wanted
    }

    private func write(_ key: ObjectKey, _ writer: any ClusterWriter) async {
        let wanted = shared.withLock { shared in
            shared.term?.due[key] = nil
            return shared.term.flatMap { Self.wanted(key, $0, shared.state) }
        }
        guard let wanted else { return }
        do {
            try await writer.write(wanted, of: key)
            shared.withLock { shared in
                let present = shared.state.services[key]?.balancedAddresses ?? []
                let status = ServiceAddresses(
                    addresses: wanted.addresses ?? present, condition: wanted.condition)
                shared.term?.known[key] = (status, .now)
                shared.term?.failures[key] = nil
                shared.fault = nil
                shared.writes += 1
            }
        } catch {
            note("the status of \(key) cannot be written: \(error)")
            shared.withLock { shared in
                let count = min((shared.term?.failures[key] ?? 0) + 1, 7)
                shared.term?.failures[key] = count
                shared.term?.due[key] = .now + .milliseconds(100 << count)
            }
            return
        }
        logger.info(
            "a Service's addresses were written",
            metadata: [
                "op": "loadBalancer", "service": "\(key.namespace)/\(key.name)",
                "addresses": "\((wanted.addresses ?? []).map(\.description).joined(separator: ","))",
                "reason": "\(wanted.condition?.message ?? "it asks for none")",
            ])
        let notice = Self.notice(key, wanted)
        shared.withLock { shared in
            // The last is told first: what went wrong.
            if notice.isWarning {
                shared.term?.notices.append(notice)
            } else {
                shared.term?.notices.insert(notice, at: 0)
            }
        }
    }

    /// With the reasons that MetalLB's events have.
    private static func notice(_ key: ObjectKey, _ written: ServiceAddresses) -> ClusterNotice {
        guard let condition = written.condition else {
            return ClusterNotice(
                object: key, reason: "ClearAssignment", message: "asks for no address any more", isWarning: false)
        }
        let isGiven = condition.status == "True"
        let addresses = (written.addresses ?? []).map { "\"\($0)\"" }.joined(separator: ", ")
        return ClusterNotice(
            object: key, reason: isGiven ? "IPAllocated" : "AllocationFailed",
            message: isGiven ? "assigned [\(addresses)]" : condition.message ?? "", isWarning: !isGiven)
    }

    private func note(_ fault: String) {
        let isNew = shared.withLock { shared in
            defer { shared.fault = fault }
            return shared.fault != fault
        }
        if isNew { logger.warning("\(fault)", metadata: ["op": "loadBalancer"]) }
    }
}
