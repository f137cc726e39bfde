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
            let reply = generator.reply(to: question)
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

/// Makes messages that are almost right.
struct MessageGenerator {
    private var random: SeededGenerator

    init(seed: UInt64) { random = SeededGenerator(seed: seed) }

    private static let names = [
        "web.default.svc.cluster.local", "none.default.svc.cluster.local", "www.example.com",
        "www.example.com.default.svc.cluster.local",
        "1-2-3-4.default.pod.cluster.local", "11.0.96.10.in-addr.arpa", "cluster.local", "a",
    ]

    private mutating func number(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random) }
    private mutating func pick<Element>(_ all: [Element]) -> Element { all[number(0...all.count - 1)] }
    private mutating func chance(_ one: Int) -> Bool { number(1...one) == 1 }

    mutating func query() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(short: UInt16(number(0...65_535)))
        bytes.append(short: chance(10) ? UInt16(number(0...65_535)) : 0x0100)
        let withEDNS = chance(2)
        for count in [1, 0, 0, withEDNS ? 1 : 0] { bytes.append(short: UInt16(chance(30) ? number(0...3) : count)) }
        bytes += domainName(pick(Self.names)).wire
        bytes.append(short: chance(5) ? UInt16(number(0...300)) : pick([1, 28, 33, 12, 255]))
        bytes.append(short: chance(20) ? UInt16(number(0...255)) : 1)
        if withEDNS {
            bytes += [0, 0, 41]
            bytes.append(short: UInt16(number(0...65_535)))
            bytes += [0, chance(10) ? 1 : 0, chance(2) ? 0x80 : 0, 0]
            let options = (0..<number(0...20)).map { _ in UInt8(number(0...255)) }
            bytes.append(short: UInt16(options.count))
            bytes += options
        }
        return broken(bytes)
    }

    mutating func reply(to question: Question) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(short: 7)
        bytes.append(short: pick([0x8180, 0x8180, 0x8183, 0x8182, 0x8380]))
        let counts = (answers: number(0...4), authorities: number(0...2))
        for count in [1, counts.answers, counts.authorities, 0] { bytes.append(short: UInt16(count)) }
        bytes += question.name.wire
        bytes.append(short: question.type)
        bytes.append(short: 1)
        for _ in 0..<counts.answers + counts.authorities {
            bytes += pick([[0xC0, 12], [0xC0, 16], [0], [1, 97, 0xC0, 12], [0xC0, UInt8(number(0...255))]])
            let type = pick([
                RecordType.a, RecordType.cname, RecordType.soa, RecordType.mx, RecordType.txt, RecordType.a,
            ])
            bytes.append(short: type)
            bytes.append(short: 1)
            bytes.append(long: UInt32(number(0...70_000)))
            let data: [UInt8] =
                switch type {
                case RecordType.a: [192, 0, 2, 1]
                case RecordType.cname:
                    pick([[0xC0, 12], [3, 99, 100, 110, 0xC0, 16], [0xC0, UInt8(number(0...255))], [1, 98, 0]])
                case RecordType.soa: [0xC0, 12, 0] + [UInt8](repeating: 1, count: 20)
                case RecordType.mx: [0, 5, 0xC0, 12]
                default: [3, 97, 98, 99]
                }
            bytes.append(short: UInt16(data.count))
            bytes += data
        }
        return broken(bytes)
    }

    /// With a few bytes changed, or the end cut off; often as it is.
    private mutating func broken(_ bytes: [UInt8]) -> [UInt8] {
        var bytes = bytes
        switch number(0...5) {
        case 0: for _ in 0..<number(1...4) { bytes[number(2...bytes.count - 1)] = UInt8(number(0...255)) }
        case 1: bytes.removeLast(number(1...bytes.count - 1))
        case 2:
            bytes.insert(
                contentsOf: (0..<number(1...9)).map { _ in UInt8(number(0...255)) }, at: number(0...bytes.count))
        default: break
        }
        return bytes
    }
}
