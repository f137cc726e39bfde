import KnetCore
import TestSupport
import Testing

@testable import BGPPlugin

@Suite struct UpdateTests {
    private static var attributes: PathAttributes {
        var attributes = PathAttributes()
        attributes.origin = .incomplete
        attributes.asPath = ASPath(segments: [
            .init(kind: .sequence, numbers: [64_512, 4_200_000_000]), .init(kind: .set, numbers: [1, 70_000]),
        ])
        attributes.med = 7
        attributes.isAtomicAggregate = true
        attributes.aggregator = Aggregator(autonomousSystem: 70_000, identifier: 9)
        attributes.communities = [.noExport, Community(number: 64_512 << 16 | 3)]
        attributes.extendedCommunities = [0x0002_FC00_0000_0001]
        attributes.largeCommunities = [LargeCommunity(administrator: 4_200_000_000, first: 1, second: 2)]
        attributes.others = [OtherAttribute(type: 99, value: [UInt8](repeating: 5, count: 300))]
        return attributes
    }

    private static func prefixes(_ family: IPFamily, count: Int) -> [CIDR] {
        (0..<count).map {
            family == .v4
                ? CIDR(containing: .v4(UInt32($0) << 8 | 0x0100_0000), prefixLength: 24)
                : CIDR(containing: .v6(UInt128($0) << 80 | 0x2001 << 112), prefixLength: 48)
        }
    }

    @Test(arguments: IPFamily.allCases, [UpdateContext.external, .internal, .narrow])
    func manyPrefixesArriveAsTheyWereTold(_ family: IPFamily, _ context: UpdateContext) throws {
        var attributes = Self.attributes
        if !context.isExternal {
            attributes.localPreference = 200
            attributes.originatorID = 8
            attributes.clusterList = [1, 2]
        }
        let prefixes = Self.prefixes(family, count: 5_000)
        let hop = NextHop(try address(family == .v4 ? "192.0.2.1" : "2001:db8::1"))
        let writer = UpdateWriter(context: context)
        var told: [CIDR] = []
        let messages = try writer.announce(prefixes, nextHop: hop, attributes)
        for message in messages {
            let reading = Update.read(try frame(message), context)
            #expect(reading.malformations.isEmpty && reading.update.attributes == attributes)
            #expect(reading.update.announced.map(\.nextHop) == [hop])
            told += reading.update.announced.flatMap(\.prefixes)
        }
        #expect(told == prefixes)
        #expect(messages.dropLast().allSatisfy { $0.count > Frame.maximumLength - family.bits / 8 - 1 })
        var gone: [CIDR] = []
        for message in writer.withdraw(prefixes) {
            gone += Update.read(try frame(message), context).update.withdrawn
        }
        #expect(gone == prefixes)
    }

    @Test(arguments: IPFamily.allCases) func theEndOfAFamilysRoutesIsTold(_ family: IPFamily) throws {
        let writer = UpdateWriter(context: .external)
        #expect(Update.read(try frame(writer.endOfRIB(family)), .external).update == Update(endOfRIB: family))
        var without = UpdateContext.external
        without.families.remove(family)
        #expect(Update.read(try frame(writer.endOfRIB(family)), without).update == Update())
    }

    @Test func aRouteOfIPv4MayStandInMPReach() throws {
        let message = updateMessage(
            hex("80 0E 0D 0001 01 04 C0000201 00 18 CB0071 40 01 01 00 40 02 06 02 01 0000FC00"))
        let update = Update.read(try frame(message), .external).update
        #expect(
            update.announced == [
                Announcement(nextHop: NextHop(try address("192.0.2.1")), prefixes: [try cidr("203.0.113.0/24")])
            ])
    }

    @Test func aNextHopOf32BytesHasALinkLocalAddressToo() throws {
        let hop = NextHop(try address("2001:db8::1"), linkLocal: try address("fe80::1"))
        let writer = UpdateWriter(context: .external)
        let messages = try writer.announce([try cidr("2001:db8:1::/48")], nextHop: hop, PathAttributes())
        #expect(Update.read(try frame(messages[0]), .external).update.announced[0].nextHop == hop)
    }

    @Test func attributesMayLeaveNoRoom() throws {
        var attributes = PathAttributes()
        attributes.communities = [Community](repeating: .noExport, count: 1_015)
        let hop = NextHop(try address("192.0.2.1"))
        #expect(throws: UpdateWriter.AttributesTooLong.self) {
            try UpdateWriter(context: .external).announce([try cidr("10.0.0.0/8")], nextHop: hop, attributes)
        }
    }

    @Test(arguments: [
        // AS_PATH, AS4_PATH, both in segments; what is meant (RFC 6793 §4.2.3).
        ("0203 FC00 5BA0 5BA0", "0202 00011170 00011171", "64512 70000 70001"),
        ("0201 5BA0", "0201 00011170", "70000"),
        ("0201 FC00", "0202 00011170 00011171", "64512"),
        ("0202 FC00 5BA0 0102 0001 0002", "0201 00011170 0102 00000001 00011171", "64512 70000 {1 70001}"),
        ("0202 FC00 5BA0", "0301 00000007 0201 00011170", "64512 70000"),
    ]) func wideNumbersAreTakenFromAS4Path(path: String, full: String, meant: String) throws {
        func attribute(_ head: String, _ value: String) -> [UInt8] {
            hex(head) + [UInt8(hex(value).count)] + hex(value)
        }
        let list =
            hex(ErrorHandlingTests.origin) + attribute("40 02", path) + hex(ErrorHandlingTests.hop)
            + attribute("C0 11", full)
        let reading = Update.read(try frame(updateMessage(list, routes: hex("18 CB0071"))), .narrow)
        #expect(reading.update.attributes.asPath.description == meant)
        #expect(try reading.again(.narrow) == reading.update.normalized)
    }

    @Test(arguments: [
        ("C0 07 06 5BA0 00000001 C0 12 08 00011170 00000002", UInt32(70_000), 2),
        ("C0 07 06 FC00 00000001 C0 12 08 00011170 00000002", 64_512, 1),
        ("C0 07 06 5BA0 00000001", 23_456, 1),
    ]) func aWideAggregatorIsTakenFromItsAttribute(list: String, number: UInt32, identifier: UInt32) throws {
        let head = ErrorHandlingTests.origin + "40 02 04 02 01 FC00" + ErrorHandlingTests.hop
        let message = updateMessage(hex(head + list), routes: hex("18 CB0071"))
        let aggregator = Update.read(try frame(message), .narrow).update.attributes.aggregator
        #expect(aggregator == Aggregator(autonomousSystem: number, identifier: identifier))
    }

    @Test func aPathIsPrependedAndSplit() throws {
        let path = ASPath([64_513]).prepending(64_512, count: 300)
        #expect(path.length == 301 && path.first == 64_512)
        let read = try #require(ASPath.read(ByteReader(path.bytes(octets: 4)), octets: 4))
        #expect(read.length == 301 && read.segments.map(\.numbers.count) == [255, 45, 1])
    }

    @Test func aHundredThousandRoutesAreReadInTime() throws {
        let prefixes = Self.prefixes(.v4, count: 100_000)
        let hop = NextHop(try address("192.0.2.1"))
        let frames = try UpdateWriter(context: .external).announce(prefixes, nextHop: hop, Self.attributes).map(frame)
        let clock = ContinuousClock()
        var count = 0
        let spent = clock.measure {
            for frame in frames {
                count += Update.read(frame, .external).update.announced.reduce(0) { $0 + $1.prefixes.count }
            }
        }
        #expect(count == prefixes.count)
        #expect(spent < .seconds(5), "\(spent)")
    }
}
