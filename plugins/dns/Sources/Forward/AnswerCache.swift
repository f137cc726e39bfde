import Synchronization

/// Answers of other servers, for all threads. When it is full, what was not asked for lately goes.
final class AnswerCache: Sendable {
    /// Limits that the configuration sets.
    struct Limits: Sendable {
        /// Bytes of memory, about.
        var bytes = 16 << 20
        /// Seconds for which an answer that is out of date may be told while nobody can be asked; 0: not at all.
        var stale: UInt32 = 86_400
        /// How often something is asked for before it is fetched again ahead of time.
        var popular = 3
    }

    /// Something that is held.
    struct Found: Sendable, CustomStringConvertible {
        let answer: HeldAnswer
        /// Seconds since it was said.
        let age: UInt32
        /// The TTL to tell of what is out of date (RFC 8767 §4); `nil` where it is good.
        var stale: UInt32?
        /// Whether it should be fetched again now.
        var wantsPrefetch = false

        var description: String {
            let content =
                answer.isFailure
                ? "a failure (code \(answer.code))"
                : answer.isNameError ? "does not exist" : answer.isNegative ? "has no such records" : "an answer"
            return "\(content), said \(age) s ago, good for \(answer.lifetime) s"
                + (stale == nil ? "" : ", out of date")
        }
    }

    fileprivate struct Slot {
        let question: Question
        var answer: HeldAnswer
        /// Milliseconds of the monotonic clock.
        var since: Int64
        var uses = 0
        /// Used since the hand came by.
        var isLively = false
        var isPrefetched = false
        /// Until when it is told without asking, though it is out of date: asking failed.
        var mayBeStaleUntil: Int64 = 0

        var end: Int64 { since + Int64(answer.lifetime) * 1_000 }
        var size: Int { answer.size + 2 * MemoryLayout<Slot>.stride }
    }

    fileprivate struct Contents {
        var places: [Question: Int] = [:]
        var slots: [Slot] = []
        var hand = 0
        var bytes = 0
    }

    private final class Shard: Sendable {
        let contents = Mutex(Contents())
    }

    private let shards = (0..<16).map { _ in Shard() }
    private let limits: Limits

    /// What is told of an answer that is out of date (RFC 8767 §4), and for how long nobody is asked after a failure (§5).
    static let staleLifetime: UInt32 = 30
    private static let failurePause: Int64 = 30_000

    init(_ limits: Limits) { self.limits = limits }

    private func shard(_ question: Question) -> Shard { shards[question.spread & 15] }

    /// What is held and good, or may be told now though it is not.
    func find(_ question: Question, now: Int64) -> Found? {
        shard(question).contents.withLock { contents in
            guard let place = contents.places[question] else { return nil }
            contents.slots[place].isLively = true
            let slot = contents.slots[place]
            let age = UInt32(clamping: (now - slot.since) / 1_000)
            if now >= slot.end {
                guard now < slot.mayBeStaleUntil else { return nil }
                return Found(answer: slot.answer, age: age, stale: Self.staleLifetime)
            }
            contents.slots[place].uses += 1
            var found = Found(answer: slot.answer, age: age)
            // With a tenth of its life left.
            if slot.uses >= limits.popular, !slot.isPrefetched, limits.popular > 0,
                (slot.end - now) * 10 < Int64(slot.answer.lifetime) * 1_000
            {
                contents.slots[place].isPrefetched = true
                found.wantsPrefetch = true
            }
            return found
        }
    }

    /// What is held though it is out of date, for want of something better.
    func findStale(_ question: Question, now: Int64) -> Found? {
        shard(question).contents.withLock { contents in
            guard limits.stale > 0, let place = contents.places[question] else { return nil }
            let slot = contents.slots[place]
            guard now < slot.end + Int64(limits.stale) * 1_000, !slot.answer.isFailure else { return nil }
            contents.slots[place].mayBeStaleUntil = now + Self.failurePause
            return Found(
                answer: slot.answer, age: UInt32(clamping: (now - slot.since) / 1_000),
                stale: now < slot.end ? nil : Self.staleLifetime)
        }
    }

    /// What is told where nobody can be asked: what is held though it is out of date, or that there is a failure.
    func findWithoutAsking(_ question: Question, now: Int64) -> Found {
        findStale(question, now: now) ?? Found(answer: .failure(.serverFailure, lifetime: 0), age: 0)
    }

    /// Whether something is held that is out of date, and may be told for want of something better.
    func isStale(_ question: Question, now: Int64) -> Bool {
        shard(question).contents.withLock { contents in
            guard limits.stale > 0, let place = contents.places[question] else { return false }
            let slot = contents.slots[place]
            return now >= slot.end && now < slot.end + Int64(limits.stale) * 1_000 && !slot.answer.isFailure
        }
    }

    func insert(_ answer: HeldAnswer, for question: Question, now: Int64) {
        guard answer.lifetime > 0 else { return }
        shard(question).contents.withLock { contents in
            var slot = Slot(question: question, answer: answer, since: now)
            if let place = contents.places[question] {
                let old = contents.slots[place]
                slot.isLively = old.isLively
                // Better something that was true than a failure.
                if answer.isFailure, !old.answer.isFailure { return }
                contents.bytes += slot.size - old.size
                contents.slots[place] = slot
            } else {
                contents.places[question] = contents.slots.count
                contents.slots.append(slot)
                contents.bytes += slot.size
            }
            contents.evict(limits.bytes / shards.count)
        }
    }

    /// How many answers say something, and how many that there is nothing.
    var counts: (success: Int, denial: Int) {
        shards.reduce(into: (0, 0)) { counts, shard in
            shard.contents.withLock { contents in
                let denials = contents.slots.count(where: \.answer.isNegative)
                counts.0 += contents.slots.count - denials
                counts.1 += denials
            }
        }
    }

    /// Forgets everything.
    func clear() {
        for shard in shards { shard.contents.withLock { $0 = Contents() } }
    }
}

extension AnswerCache.Contents {
    /// Goes round like a clock's hand: what was used since it last came by stays.
    fileprivate mutating func evict(_ limit: Int) {
        while bytes > limit, !slots.isEmpty {
            if hand >= slots.count { hand = 0 }
            if slots[hand].isLively {
                slots[hand].isLively = false
                hand += 1
                continue
            }
            let gone = slots[hand]
            places[gone.question] = nil
            bytes -= gone.size
            slots.swapAt(hand, slots.count - 1)
            slots.removeLast()
            guard hand < slots.count else { continue }
            places[slots[hand].question] = hand
            // What came there last gets a round.
            hand += 1
        }
    }
}
