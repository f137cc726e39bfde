import KnetCore
import TestSupport

@testable import BGPPlugin

/// Messages by the grammar, and their ruin.
struct MessageGenerator {
    var random: SeededGenerator

    init(seed: UInt64) { random = SeededGenerator(seed: seed) }

    mutating func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &random) < percent }

    mutating func bytes(_ count: ClosedRange<Int>) -> [UInt8] {
        (0..<Int.random(in: count, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
    }

    mutating func context() -> UpdateContext {
        UpdateContext(
            hasFourOctetAS: chance(60), families: chance(80) ? [.v4, .v6] : [.v6], isExternal: chance(60),
            firstAS: chance(5) ? 64_512 : nil)
    }

    mutating func message(_ context: UpdateContext) -> [UInt8] {
        switch Int.random(in: 0..<20, using: &random) {
        case 0: Message.keepalive.bytes
        case 1: RouteRefresh(AddressFamily(.v6)).bytes
        case 2: Frame.message(.notification, [UInt8.random(in: 0...7, using: &random)] + bytes(1...20))
        case 3...5: open()
        default: update(context)
        }
    }

    private mutating func open() -> [UInt8] {
        var open = Open(shortAS: 64_512, holdTime: 90, identifier: 1, capabilities: [])
        for _ in 0..<Int.random(in: 0...(chance(10) ? 40 : 6), using: &random) {
            open.capabilities.append(
                Capability(code: [1, 2, 5, 64, 65, 70].randomElement(using: &random) ?? 1, value: bytes(0...12)))
        }
        return open.bytes
    }

    private mutating func number() -> UInt32 {
        chance(70) ? UInt32.random(in: 1...65_535, using: &random) : UInt32.random(in: .min ... .max, using: &random)
    }

    private mutating func prefixes(_ family: IPFamily) -> [UInt8] {
        var list: [UInt8] = []
        for _ in 0..<Int.random(in: 0...5, using: &random) {
            let address = IPAddress(family, number: UInt128.random(in: .min ... .max, using: &random))
            let length = Int.random(in: 0...family.bits, using: &random)
            list.append(prefix: CIDR(containing: address, prefixLength: length))
        }
        return list
    }

    private mutating func path(octets: Int) -> [UInt8] {
        var path = ASPath()
        for _ in 0..<Int.random(in: 0...3, using: &random) {
            let count = chance(5) ? 255 : Int.random(in: 1...6, using: &random)
            path.segments.append(
                .init(kind: chance(80) ? .sequence : .set, numbers: (0..<count).map { _ in number() }))
        }
        return path.bytes(octets: octets)
    }

    private mutating func value(_ type: AttributeType, _ context: UpdateContext) -> [UInt8] {
        let octets = context.hasFourOctetAS ? 4 : 2
        switch type {
        case .origin: return [UInt8.random(in: 0...2, using: &random)]
        case .asPath: return path(octets: octets)
        case .as4Path: return path(octets: 4)
        case .nextHop: return [192, 0, 2, 1]
        case .med, .localPreference, .originatorID: return bytes(4...4)
        case .atomicAggregate: return []
        case .aggregator: return chance(50) && octets == 2 ? hex("5BA0 0A000001") : bytes(octets + 4...octets + 4)
        case .as4Aggregator: return bytes(8...8)
        case .communities, .clusterList: return (0..<3).flatMap { _ in bytes(4...4) }
        case .extendedCommunities: return bytes(16...16)
        case .largeCommunities: return bytes(24...24)
        case .reach:
            return chance(80)
                ? hex("000201 10 20010DB8000000000000000000000001 00") + prefixes(.v6)
                : hex("000101 04 C0000202 00") + prefixes(.v4)
        case .unreach: return chance(80) ? hex("000201") + prefixes(.v6) : hex("000101") + prefixes(.v4)
        }
    }

    private mutating func update(_ context: UpdateContext) -> [UInt8] {
        if chance(3) { return UpdateWriter(context: context).endOfRIB(chance(50) ? .v4 : .v6) }
        var list: [UInt8] = []
        let mandatory: [AttributeType] = [.origin, .asPath, .nextHop] + (context.isExternal ? [] : [.localPreference])
        for type in AttributeType.allCases where chance(mandatory.contains(type) ? 97 : 25) {
            list.append(attribute: type, value(type, context))
        }
        if chance(20) { list += [0xC0, 99, 3] + bytes(3...3) }
        return updateMessage(
            withdrawn: chance(20) ? prefixes(.v4) : [], list, routes: chance(70) ? prefixes(.v4) : [])
    }

    /// The message, often with some bytes wrong, too many or missing; its header mostly fits.
    mutating func broken(_ message: [UInt8]) -> [UInt8] {
        guard chance(75) else { return message }
        var message = message
        for _ in 0..<Int.random(in: 1...3, using: &random) {
            let first = chance(97) ? min(Frame.headerLength, message.count - 1) : 0
            let place = Int.random(in: first..<message.count, using: &random)
            switch Int.random(in: 0..<6, using: &random) {
            case 0...2: message[place] = UInt8.random(in: 0...255, using: &random)
            case 3: message[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 4: message.insert(contentsOf: bytes(1...4), at: place)
            default: if message.count > 20 { message.remove(at: place) }
            }
        }
        if chance(95), message.count > 18 {
            message[16] = UInt8(message.count >> 8)
            message[17] = UInt8(truncatingIfNeeded: message.count)
        }
        return message
    }
}
