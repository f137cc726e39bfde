import Glibc
import KnetCore
import TestSupport
import Testing

@testable import DNSPlugin

/// Messages made by the grammar and broken at random. `KNETD_FUZZ_RUNS` says how many; libFuzzer's turn is `Tests/fuzz.sh`.
@Suite struct FuzzTests {
    private static let runs = getenv("KNETD_FUZZ_RUNS").flatMap { Int(String(cString: $0)) } ?? 20_000

    private static var world: World {
        var world = World()
        world.contents.trustsPodNames = true
        world.add("web", ["10.96.0.11", "fd96::b"])
        world.outside[domainName("www.example.com")] = [address("192.0.2.1")]
        return world
    }

    @Test func everyQueryIsAnsweredWithinItsLimitsOrNotAtAll() {
        var generator = MessageGenerator(seed: 1)
        let world = Self.world
        let resolver = Resolver(cache: AnswerCache(.init()), walks: SearchWalks())
        let room = UnsafeMutableRawBufferPointer.allocate(byteCount: 1_232, alignment: 8)
        defer { room.deallocate() }
        var (answered, failed) = (0, 0)
        for run in 0..<Self.runs {
            let query = generator.query()
            var material = Resolver.Material(contents: world.contents, now: Int64(run))
            fetching: while true {
                let outcome = query.withUnsafeBytes {
                    resolver.answer($0, from: world.pod, isDatagram: true, with: material, into: room)
                }
                switch outcome {
                case .ignore: break fetching
                case .fetch(let question):
                    #expect(material.fetched.count < 24)
                    material.fetched.append((question, .init(answer: world.answer(question), age: 0)))
                    continue fetching
                case .send(let length):
                    let reply = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(room)[..<length])
                    let isSound =
                        length >= 12 && reply.short(0) == query.withUnsafeBytes { $0.short(0) }
                        && reply.short(2) & 0x8000 != 0
                        && (reply.short(4) == 0 ? length >= 12 : Self.isWellFormed(reply))
                    #expect(isSound, "run \(run): \(query) → \(Array(reply))")
                    if resolver.facts.code == .formatError { failed += 1 } else { answered += 1 }
                    break fetching
                }
            }
        }
        #expect(answered > Self.runs / 10 && failed > Self.runs / 50, "\(answered) answered, \(failed) malformed")
    }

    private static func isWellFormed(_ reply: UnsafeRawBufferPointer) -> Bool {
        guard let (_, end) = DomainName.read(reply, at: 12), let sections = ReplyRecord.all(reply, from: end + 4) else {
            return false
        }
        return sections.answers.count == reply.short(6)
    }

    @Test func whateverAnUpstreamSaysIsUnderstoodOrDropped() {
        var generator = MessageGenerator(seed: 2)
        var (answers, others) = (0, 0)
        let room = UnsafeMutableRawBufferPointer.allocate(byteCount: 512, alignment: 8)
        defer { room.deallocate() }
        var name = [UInt8](repeating: 0, count: 256)
        for run in 0..<Self.runs {
            let question = Question(domainName("www.example.com"), RecordType.a)
            let reply = generator.reply(to: question.name.wire, question.type)
            let read = reply.withUnsafeBytes { UpstreamReply($0, to: question, id: 7, lifetimes: .init()) }
            guard case .answer(let held) = read else {
                others += 1
                continue
            }
            answers += 1
            // What was taken can be sent, under the name and under another.
            for asked in ["www.example.com", "www.example.com.default.svc.cluster.local"] {
                let message = QueryMessage.bytes(Question(domainName(asked), RecordType.a), id: 9, withEDNS: false)
                let reading = message.withUnsafeBytes { message in
                    name.withUnsafeMutableBytes { Query.read(message, name: $0) }
                }
                guard case .query(let query) = reading else { continue }
                let length = message.withUnsafeBytes { bytes in
                    var answer = Answer(to: query, bytes, into: room, limit: 512)
                    if asked != "www.example.com" {
                        question.name.wire.withUnsafeBytes { answer.alias(to: $0, ttl: 5) }
                    }
                    answer.append(held, age: 1, stale: nil)
                    return answer.finish()
                }
                let sent = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(room)[..<length])
                #expect(length <= 512 && Self.isWellFormed(sent), "run \(run): \(reply) → \(Array(sent))")
            }
        }
        #expect(answers > Self.runs / 20 && others > Self.runs / 20, "\(answers) answers, \(others) others")
    }
}
