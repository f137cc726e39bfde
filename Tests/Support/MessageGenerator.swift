/// Makes DNS messages (RFC 1035 §4) that are almost right.
public struct MessageGenerator {
    private var random: SeededGenerator

    public init(seed: UInt64) { random = SeededGenerator(seed: seed) }

    private static let names = [
        "web.default.svc.cluster.local", "none.default.svc.cluster.local", "www.example.com",
        "www.example.com.default.svc.cluster.local",
        "1-2-3-4.default.pod.cluster.local", "11.0.96.10.in-addr.arpa", "cluster.local", "a",
    ]

    private mutating func number(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random) }
    private mutating func pick<Element>(_ all: [Element]) -> Element { all[number(0...all.count - 1)] }
    private mutating func chance(_ one: Int) -> Bool { number(1...one) == 1 }

    public mutating func query() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(short: UInt16(number(0...65_535)))
        bytes.append(short: chance(10) ? UInt16(number(0...65_535)) : 0x0100)
        let withEDNS = chance(2)
        for count in [1, 0, 0, withEDNS ? 1 : 0] { bytes.append(short: UInt16(chance(30) ? number(0...3) : count)) }
        bytes += pick(Self.names).labels
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

    /// - Parameter name: of the question, in the form of a message.
    public mutating func reply(to name: [UInt8], _ questionType: UInt16) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(short: 7)
        bytes.append(short: pick([0x8180, 0x8180, 0x8183, 0x8182, 0x8380]))
        let counts = (answers: number(0...4), authorities: number(0...2))
        for count in [1, counts.answers, counts.authorities, 0] { bytes.append(short: UInt16(count)) }
        bytes += name
        bytes.append(short: questionType)
        bytes.append(short: 1)
        for _ in 0..<counts.answers + counts.authorities {
            bytes += pick([[0xC0, 12], [0xC0, 16], [0], [1, 97, 0xC0, 12], [0xC0, UInt8(number(0...255))]])
            let type: UInt16 = pick([
                1, 5, 6, 15, 16, 1,
            ])
            bytes.append(short: type)
            bytes.append(short: 1)
            bytes.append(long: UInt32(number(0...70_000)))
            let data: [UInt8] =
                switch type {
                case 1: [192, 0, 2, 1]
                case 5:
                    pick([[0xC0, 12], [3, 99, 100, 110, 0xC0, 16], [0xC0, UInt8(number(0...255))], [1, 98, 0]])
                case 6: [0xC0, 12, 0] + [UInt8](repeating: 1, count: 20)
                case 15: [0, 5, 0xC0, 12]
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

extension [UInt8] {
    fileprivate mutating func append(short value: UInt16) { self += [UInt8(value >> 8), UInt8(value & 255)] }

    fileprivate mutating func append(long value: UInt32) {
        append(short: UInt16(value >> 16))
        append(short: UInt16(truncatingIfNeeded: value))
    }
}

extension String {
    /// As a domain name in a message (RFC 1035 §3.1).
    public var labels: [UInt8] { split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) } + [0] }
}
