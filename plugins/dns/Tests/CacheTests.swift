import KnetCore
import Testing

@testable import DNSPlugin

/// What is held of other servers' answers, and for how long.
@Suite struct CacheTests {
    private let question = Question(domainName("www.example.com"), RecordType.a)

    private func answer(_ question: Question, lifetime: UInt32) -> HeldAnswer {
        var builder = HeldAnswerBuilder(question, lifetimes: .init(least: 0, most: 86_400, mostNegative: 300))
        let record = ReplyRecord(name: question.name, type: RecordType.a, ttl: lifetime, data: [192, 0, 2, 1])
        builder.add(answers: [record], authorities: [], code: .noError)
        return builder.finish(.noError, isVerified: false) ?? .failure(.serverFailure, lifetime: 0)
    }

    @Test func anAnswerIsHeldForItsLifetimeAndTellsItsAge() {
        let cache = AnswerCache(.init())
        cache.insert(answer(question, lifetime: 10), for: question, now: 1_000)
        #expect(cache.find(question, now: 8_999)?.age == 7)
        #expect(cache.find(question, now: 11_000) == nil)
        #expect(cache.find(Question(question.name, RecordType.aaaa), now: 2_000) == nil)
        #expect(cache.find(Question(question.name, RecordType.a, .signatures), now: 2_000) == nil)
    }

    @Test func whatIsPopularIsFetchedAgainOnceInItsLastTenth() {
        let cache = AnswerCache(.init(popular: 3))
        cache.insert(answer(question, lifetime: 100), for: question, now: 0)
        let early = (0..<5).map { cache.find(question, now: 50_000 + Int64($0))?.wantsPrefetch }
        #expect(early == [false, false, false, false, false])
        #expect(cache.find(question, now: 90_001)?.wantsPrefetch == true)
        #expect(cache.find(question, now: 90_002)?.wantsPrefetch == false)
        // One that is asked for once in a while is not.
        let other = Question(domainName("seldom.example.com"), RecordType.a)
        cache.insert(answer(other, lifetime: 100), for: other, now: 0)
        #expect(cache.find(other, now: 95_000)?.wantsPrefetch == false)
    }

    @Test func whatIsOutOfDateIsToldAfterAFailureOnlyAndNotForEver() {
        let cache = AnswerCache(.init(stale: 100))
        cache.insert(answer(question, lifetime: 10), for: question, now: 0)
        #expect(cache.find(question, now: 11_000) == nil && cache.isStale(question, now: 11_000))
        #expect(cache.findStale(question, now: 11_000)?.stale == 30)
        // Then it is told without asking, for half a minute.
        #expect(cache.find(question, now: 40_000)?.stale == 30)
        #expect(cache.find(question, now: 42_000) == nil)
        #expect(cache.findStale(question, now: 111_000) == nil)
        // A failure does not take its place.
        cache.insert(.failure(.serverFailure, lifetime: 5), for: question, now: 50_000)
        #expect(cache.findStale(question, now: 51_000)?.answer.isFailure == false)
    }

    @Test func memoryIsBoundedAndWhatIsUsedStays() {
        let cache = AnswerCache(.init(bytes: 1 << 20))
        cache.insert(answer(question, lifetime: 1_000), for: question, now: 0)
        for index in 0..<20_000 {
            let other = Question(domainName("host-\(index).example.com"), RecordType.a)
            cache.insert(answer(other, lifetime: 1_000), for: other, now: 0)
            if index % 10 == 0 { _ = cache.find(question, now: 1) }
        }
        #expect((500...8_000).contains(cache.counts.success), "\(cache.counts)")
        #expect(cache.find(question, now: 1) != nil)
    }

    @Test func lifetimesAreWithinTheirLimits() {
        func lifetime(_ ttl: UInt32) -> UInt32? {
            var builder = HeldAnswerBuilder(question, lifetimes: .init(least: 5, most: 60, mostNegative: 30))
            builder.add(
                answers: [ReplyRecord(name: question.name, type: RecordType.a, ttl: ttl, data: [192, 0, 2, 1])],
                authorities: [],
                code: .noError)
            return builder.finish(.noError, isVerified: false)?.lifetime
        }
        #expect(lifetime(0) == 5 && lifetime(30) == 30 && lifetime(100_000) == 60)
    }
}
