import FoundationEssentials
import KnetCore

/// Who of several writes, by a Lease that all of them read and write (coordination.k8s.io/v1), by client-go's rules
/// (k8s.io/client-go/tools/leaderelection): the holder renews it in time, and who sees no change of it for as long as it lasts takes it.
///
/// No clock of another machine is believed: how long a Lease was unchanged is measured here.
struct LeaseElection {
    /// What to do about the Lease now.
    enum Step: Equatable {
        case create(JSONValue)
        /// The object as it was read, with other contents: the server refuses it if somebody was faster.
        case replace(JSONValue)
        case wait
    }

    let identity: String
    let seconds: Int
    /// The holder as last seen.
    private(set) var holder: String?
    private var seen: (revision: String, since: ContinuousClock.Instant)?
    private var renewed: ContinuousClock.Instant?

    init(identity: String, seconds: Int) {
        self.identity = identity
        self.seconds = seconds
    }

    /// Until when this process may write: a third of the Lease's time before others may take it.
    var heldUntil: ContinuousClock.Instant? { renewed.map { $0 + .seconds(seconds) * 2 / 3 } }

    /// How long to wait between two looks.
    var interval: Duration { .seconds(seconds) / 6 }

    /// - Parameters:
    ///   - lease: as the server has it; `nil` where there is none.
    ///   - time: RFC 3339 with six digits of a second (metav1.MicroTime).
    mutating func next(_ lease: JSONValue?, now: ContinuousClock.Instant, time: String) -> Step {
        guard let lease else {
            holder = nil
            seen = nil
            return .create([
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": [:],
                "spec": spec(nil, time: time),
            ])
        }
        let old = lease["spec"]
        holder = old?["holderIdentity"]?.string?.nonEmpty
        let revision = lease["metadata"]?["resourceVersion"]?.string ?? ""
        if seen?.revision != revision { seen = (revision, now) }
        let lasts = Duration.seconds(old?["leaseDurationSeconds"]?.integer ?? seconds)
        let isFree = holder == nil || holder == identity || seen.map { $0.since + lasts <= now } == true
        guard isFree, var next = lease.object else { return .wait }
        next["spec"] = spec(old, time: time)
        return .replace(.object(next))
    }

    /// - Parameter since: before the request was sent.
    mutating func won(since: ContinuousClock.Instant) {
        renewed = since
        holder = identity
    }

    mutating func lost() { renewed = nil }

    /// The Lease without a holder, so that the next one need not wait; `nil` where it is another's.
    func released(_ lease: JSONValue, time: String) -> JSONValue? {
        guard lease["spec"]?["holderIdentity"]?.string == identity, var next = lease.object else { return nil }
        var spec = lease["spec"]?.object ?? [:]
        spec["holderIdentity"] = ""
        spec["leaseDurationSeconds"] = 1
        spec["renewTime"] = .string(time)
        next["spec"] = .object(spec)
        return .object(next)
    }

    private func spec(_ old: JSONValue?, time: String) -> JSONValue {
        let isOurs = old?["holderIdentity"]?.string == identity
        let changes = old?["leaseTransitions"]?.integer ?? 0
        return [
            "holderIdentity": .string(identity), "leaseDurationSeconds": .integer(seconds),
            "acquireTime": isOurs ? old?["acquireTime"] ?? .string(time) : .string(time),
            "renewTime": .string(time), "leaseTransitions": .integer(isOurs || old == nil ? changes : changes + 1),
        ]
    }
}
