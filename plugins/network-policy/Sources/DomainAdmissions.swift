import Glibc
import KnetCore
import KnetLinux
import Synchronization

/// Admits addresses by the names that they were told for, while pods may use them. Called by who answers, before the answer is sent.
final class DomainAdmissions: Sendable {
    private struct Key: Hashable {
        let set: SetName
        let address: IPAddress
    }

    private struct Contents {
        /// Sets by their patterns.
        var numbers: [String: UInt64] = [:]
        /// Until when it is in the kernel.
        var ends: [Key: ContinuousClock.Instant] = [:]
    }

    private let elements: SetElements
    private let contents = Mutex(Contents())

    /// Seconds for which an address stays beyond what the answer says: programs keep what they were told for longer.
    private static let grace: UInt32 = 300
    private static let mostHeld = 100_000

    init(_ elements: SetElements) { self.elements = elements }

    /// Takes other patterns; what they are called in the kernel may have changed.
    func use(_ numbers: [String: UInt64]) {
        contents.withLock {
            if $0.numbers == numbers { return }
            $0 = Contents(numbers: numbers)
        }
    }

    /// The kernel may have lost what was admitted.
    func forget() { contents.withLock { $0.ends = [:] } }

    func admit(_ patterns: [String], _ addresses: [IPAddress], lifetime: UInt32) {
        let now = ContinuousClock.now
        let seconds = min(lifetime, 86_400) + Self.grace
        contents.withLock { contents in
            let keys = patterns.compactMap { contents.numbers[$0] }.flatMap { number in
                addresses.map { Key(set: SetName(.domain, number, $0.family), address: $0) }
            }
            // One that stays for long enough is left.
            for key in keys where contents.ends[key].map({ $0 < now + .seconds(lifetime) + .seconds(60) }) ?? true {
                guard admit(key, seconds: seconds) else { continue }
                if contents.ends.count >= Self.mostHeld { contents.ends = [:] }
                contents.ends[key] = now + .seconds(seconds)
            }
        }
    }

    /// - Returns: whether it is in the kernel: a set that is not there yet has none.
    private func admit(_ key: Key, seconds: UInt32) -> Bool {
        var changes = SetChanges()
        let element = ElementForm.element(.address(key.address))
        var timed = element
        timed.timeout = UInt64(seconds) * 1_000
        changes.added["\(key.set)"] = [timed]
        // An element's time is not prolonged: it comes anew, in one step.
        var renewed = changes
        renewed.removed["\(key.set)"] = [element]
        return (try? elements.change(renewed)) != nil || (try? elements.change(changes)) != nil
    }
}
