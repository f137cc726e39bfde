import KnetCore
import Testing

@testable import BGPPlugin

/// RFC 7606, a row for each case.
@Suite struct ErrorHandlingTests {
    struct Row: Sendable, CustomTestStringConvertible {
        let name: String
        let attributes: String
        var routes = "18 CB0071"
        var withdrawn = ""
        var context = UpdateContext.external
        let reaction: Reaction?
        var subcode: UInt8?
        var data: String?

        init(
            _ name: String, _ attributes: String, routes: String = "18 CB0071", withdrawn: String = "",
            for context: UpdateContext = .external, _ reaction: Reaction?, subcode: UInt8? = nil, data: String? = nil
        ) {
            (self.name, self.attributes, self.routes, self.withdrawn) = (name, attributes, routes, withdrawn)
            (self.context, self.reaction, self.subcode, self.data) = (context, reaction, subcode, data)
        }

        var testDescription: String { name }
    }

    static let origin = "40 01 01 00"
    static let path = "40 02 06 02 01 0000FC00"
    static let hop = "40 03 04 C0000201"
    static let preference = "40 05 04 00000064"
    static let base = origin + path + hop
    static let reach = "80 0E 1A 0002 01 10 20010DB8000000000000000000000001 00 20 20010DB8"

    static let rows: [Row] = [
        Row("nothing is wrong", base, nil),
        Row("nothing is wrong, internal", base + preference, for: .internal, nil),
        Row("nothing is wrong, IPv6", reach + origin + path, routes: "", nil),
        // §3 c
        Row("flags of ORIGIN", "C0 01 01 00" + path + hop, .treatAsWithdraw, subcode: 4, data: "C0010100"),
        Row("flags of AS_PATH", origin + "80 02 06 02 01 0000FC00" + hop, .treatAsWithdraw, subcode: 4),
        Row("flags of NEXT_HOP", origin + path + "00 03 04 C0000201", .treatAsWithdraw, subcode: 4),
        Row("flags of MED", base + "40 04 04 00000001", .treatAsWithdraw, subcode: 4),
        Row("flags of LOCAL_PREF", base + "C0 05 04 00000064", for: .internal, .treatAsWithdraw, subcode: 4),
        Row("flags of COMMUNITIES", base + "80 08 04 FC000001", .treatAsWithdraw, subcode: 4),
        Row("flags of ATOMIC_AGGREGATE", base + "C0 06 00", .attributeDiscard, subcode: 4),
        Row("flags of AGGREGATOR", base + "80 07 08 0000FC00 C0000201", .attributeDiscard, subcode: 4),
        Row("the bit Partial is of no meaning", base + "E0 08 04 FC000001", nil),
        // §3 d
        Row("no ORIGIN", path + hop, .treatAsWithdraw, subcode: 3, data: "01"),
        Row("no AS_PATH", origin + hop, .treatAsWithdraw, subcode: 3, data: "02"),
        Row("no NEXT_HOP", origin + path, .treatAsWithdraw, subcode: 3, data: "03"),
        Row("no LOCAL_PREF, internal", base, for: .internal, .treatAsWithdraw, subcode: 3, data: "05"),
        Row("IPv6 without ORIGIN", reach + path, routes: "", .treatAsWithdraw, subcode: 3, data: "01"),
        Row("no attributes but routes", "", .treatAsWithdraw, subcode: 3),
        // §3 g
        Row("ORIGIN twice", base + "40 01 01 02", .attributeDiscard),
        Row("an unknown one twice", base + "C0 63 01 00 C0 63 01 01", .attributeDiscard),
        Row("MP_REACH_NLRI twice", reach + reach + origin + path, routes: "", .sessionReset, subcode: 1),
        Row("MP_UNREACH_NLRI twice", "80 0F 03 0002 01 80 0F 03 0002 01", routes: "", .sessionReset, subcode: 1),
        // §3 h
        Row("discard and withdraw", base + "C0 06 00 C0 08 01 00", .treatAsWithdraw),
        Row("withdraw and reset", "40 01 01 07" + path + hop + "40 63 00", .sessionReset, subcode: 2),
        // §3 i, §5.3
        Row("withdrawn prefix too long", "", routes: "", withdrawn: "21 0A00000000", .sessionReset, subcode: 10),
        Row("withdrawn prefix cut off", "", routes: "", withdrawn: "18 0A00", .sessionReset, subcode: 10),
        Row("prefix too long", base, routes: "21 0A00000000", .sessionReset, subcode: 10),
        Row("prefix cut off", base, routes: "18 0A00", .sessionReset, subcode: 10),
        // §4
        Row("attribute longer than the list", base + "C0 08 05 FC000001", .treatAsWithdraw, subcode: 1),
        Row("two bytes left in the list", base + "C0 08", .treatAsWithdraw, subcode: 1),
        Row("three bytes left with a long length", base + "D0 08 00", .treatAsWithdraw, subcode: 1),
        Row("ORIGIN of no length", "40 01 00" + path + hop, .treatAsWithdraw, subcode: 5),
        Row("AS_PATH of no length", origin + "40 02 00" + hop, nil),
        Row("COMMUNITIES of no length", base + "C0 08 00", .treatAsWithdraw, subcode: 5),
        // §5.2
        Row("withdraw without routes", "40 01 01 07" + path, routes: "", .sessionReset, subcode: 6),
        Row("discard without routes", origin + path + "C0 06 00", routes: "", .attributeDiscard),
        Row("cut off without routes", "40 01 05", routes: "", .sessionReset, subcode: 1),
        Row(
            "withdraw beside MP_UNREACH_NLRI", "80 0F 03 0002 01 40 01 01 07", routes: "", .sessionReset, subcode: 6),
        // §7.1
        Row("ORIGIN not defined", "40 01 01 03" + path + hop, .treatAsWithdraw, subcode: 6, data: "40010103"),
        Row("ORIGIN of two bytes", "40 01 02 0000" + path + hop, .treatAsWithdraw, subcode: 5),
        // §7.2
        Row("segment of an unknown type", origin + "40 02 06 05 01 0000FC00" + hop, .treatAsWithdraw, subcode: 11),
        Row("AS_CONFED_SEQUENCE", origin + "40 02 06 03 01 0000FC00" + hop, .treatAsWithdraw, subcode: 11),
        Row("AS_CONFED_SET", origin + "40 02 06 04 01 0000FC00" + hop, .treatAsWithdraw, subcode: 11),
        Row("segment too long", origin + "40 02 06 02 02 0000FC00" + hop, .treatAsWithdraw, subcode: 11),
        Row("a byte behind the segments", origin + "40 02 07 02 01 0000FC00 02" + hop, .treatAsWithdraw, subcode: 11),
        Row("segment of no ASes", origin + "40 02 02 02 00" + hop, .treatAsWithdraw, subcode: 11),
        Row("AS 0 in the path", origin + "40 02 06 02 01 00000000" + hop, .treatAsWithdraw, subcode: 11),
        Row(
            "first AS", base, for: UpdateContext(isExternal: true, firstAS: 64_513), .treatAsWithdraw, subcode: 11),
        Row("first AS is right", base, for: UpdateContext(isExternal: true, firstAS: 64_512), nil),
        Row(
            "first AS of a path of no length", origin + "40 02 00" + hop,
            for: UpdateContext(isExternal: true, firstAS: 64_512), .treatAsWithdraw, subcode: 11),
        // §7.3
        Row("NEXT_HOP of 5 bytes", origin + path + "40 03 05 C000020100", .treatAsWithdraw, subcode: 5),
        Row("NEXT_HOP 0.0.0.0", origin + path + "40 03 04 00000000", .treatAsWithdraw, subcode: 8),
        Row("NEXT_HOP multicast", origin + path + "40 03 04 E0000001", .treatAsWithdraw, subcode: 8),
        Row("NEXT_HOP loopback", origin + path + "40 03 04 7F000001", .treatAsWithdraw, subcode: 8),
        Row("NEXT_HOP without its routes", reach + origin + path + "40 03 01 00", routes: "", nil),
        // §7.4, §7.5
        Row("MED of 3 bytes", base + "80 04 03 000001", .treatAsWithdraw, subcode: 5),
        Row("LOCAL_PREF from outside", base + preference, .attributeDiscard),
        Row("LOCAL_PREF from outside, malformed", base + "C0 05 01 00", .attributeDiscard),
        Row("LOCAL_PREF of 3 bytes", base + "40 05 03 000064", for: .internal, .treatAsWithdraw, subcode: 5),
        // §7.6, §7.7
        Row("ATOMIC_AGGREGATE with a value", base + "40 06 01 00", .attributeDiscard),
        Row("AGGREGATOR of 6 bytes among wide ones", base + "C0 07 06 FC00 C0000201", .attributeDiscard),
        Row(
            "AGGREGATOR of 8 bytes among narrow ones",
            origin + "40 02 04 02 01 FC00" + hop
                + "C0 07 08 0000FC00 C0000201", for: .narrow, .attributeDiscard),
        Row("AGGREGATOR of AS 0", base + "C0 07 08 00000000 C0000201", .attributeDiscard),
        // §7.8, §7.14, RFC 8092
        Row("COMMUNITIES of 5 bytes", base + "C0 08 05 FC00000100", .treatAsWithdraw, subcode: 5),
        Row("extended communities of 7 bytes", base + "C0 10 07 00020000000000", .treatAsWithdraw, subcode: 5),
        Row("extended communities of no length", base + "C0 10 00", .treatAsWithdraw, subcode: 5),
        Row("large communities of 11 bytes", base + "C0 20 0B 0000FC000000000100000000", .treatAsWithdraw),
        Row("large communities of no length", base + "C0 20 00", .treatAsWithdraw, subcode: 5),
        // §7.9, §7.10
        Row("ORIGINATOR_ID from outside", base + "80 09 04 0A000001", .attributeDiscard),
        Row("ORIGINATOR_ID of 5 bytes", base + preference + "80 09 05 0A00000100", for: .internal, .treatAsWithdraw),
        Row("CLUSTER_LIST from outside", base + "80 0A 04 0A000001", .attributeDiscard),
        Row("CLUSTER_LIST of 3 bytes", base + preference + "80 0A 03 0A0000", for: .internal, .treatAsWithdraw),
        Row("CLUSTER_LIST of no length", base + preference + "80 0A 00", for: .internal, .treatAsWithdraw),
        // §7.11
        Row("MP_REACH_NLRI of 4 bytes", "80 0E 04 0002 01 00" + origin + path, routes: "", .sessionReset, subcode: 9),
        Row(
            "next hop of IPv6 with 4 bytes", "80 0E 09 0002 01 04 C0000201 00" + origin + path, routes: "",
            .sessionReset, subcode: 9),
        Row(
            "next hop longer than its attribute", "80 0E 06 0002 01 10 00 00" + origin + path, routes: "",
            .sessionReset, subcode: 9),
        Row(
            "prefix of IPv6 cut off", "80 0E 18 0002 01 10 20010DB8000000000000000000000001 00 20 2001" + origin + path,
            routes: "", .sessionReset, subcode: 10),
        Row(
            "prefix of IPv6 too long", "80 0E 16 0002 01 10 20010DB8000000000000000000000001 00 81" + origin + path,
            routes: "", .sessionReset, subcode: 10),
        Row(
            "flags of MP_REACH_NLRI", "C0" + reach.dropFirst(2) + origin + path, routes: "", .sessionReset, subcode: 4),
        Row(
            "next hop of IPv6 is ::",
            "80 0E 1A 0002 01 10 00000000000000000000000000000000 00 20 20010DB8" + origin
                + path, routes: "", .treatAsWithdraw),
        Row("a family not agreed on", "80 0E 05 0019 41 00 00" + origin + path, routes: "", nil),
        // §7.12
        Row("MP_UNREACH_NLRI of 2 bytes", "80 0F 02 0002", routes: "", .sessionReset, subcode: 9),
        Row("withdrawn prefix of IPv6 too long", "80 0F 04 0002 01 81", routes: "", .sessionReset, subcode: 10),
        Row("flags of MP_UNREACH_NLRI", "40 0F 03 0002 01", routes: "", .sessionReset, subcode: 4),
        // RFC 4271 §6.3
        Row("well-known and unknown", base + "40 63 01 07", .sessionReset, subcode: 2, data: "40630107"),
        Row("optional and unknown", base + "80 63 01 07", nil),
        Row("unknown of no length", base + "C0 63 00", nil),
        // RFC 6793 §6
        Row("AS4_PATH among wide ones", base + "C0 11 01 00", nil),
        Row(
            "AS4_PATH malformed", origin + "40 02 04 02 01 FC00" + hop + "C0 11 03 02 01 00", for: .narrow,
            .attributeDiscard),
        Row(
            "AS4_AGGREGATOR malformed", origin + "40 02 04 02 01 FC00" + hop + "C0 12 03 02 01 00", for: .narrow,
            .attributeDiscard),
    ]

    @Test(arguments: rows) func aMalformedPartLeadsToItsReaction(_ row: Row) throws {
        let message = updateMessage(withdrawn: hex(row.withdrawn), hex(row.attributes), routes: hex(row.routes))
        let reading = Update.read(try frame(message), row.context)
        #expect(reading.reaction == row.reaction, "\(reading.malformations)")
        #expect((reading.reset != nil) == (row.reaction == .sessionReset))
        let strongest = reading.malformations.first { $0.reaction == row.reaction }
        if let subcode = row.subcode { #expect(strongest?.notification.subcode == subcode) }
        if let data = row.data { #expect(strongest?.notification.data == hex(data)) }
        switch row.reaction {
        case .sessionReset: #expect(reading.update == Update())
        case .treatAsWithdraw:
            #expect(reading.update.announced.isEmpty && !reading.update.withdrawn.isEmpty)
        default: #expect(try reading.again(row.context) == reading.update.normalized)
        }
    }

    @Test(arguments: ["0001", "FFFF"]) func partsThatDoNotFitTheMessageEndTheSession(length: String) throws {
        for body in [length + "0000", "0000" + length] {
            let reading = Update.read(try frame(Frame.message(.update, hex(body))), .external)
            #expect(reading.reset == Notification(.updateMessage, 1))
        }
    }

    @Test func theFirstOfTwoAttributesCounts() throws {
        let message = updateMessage(hex(Self.base + "40 01 01 02"), routes: hex("18 CB0071"))
        #expect(Update.read(try frame(message), .external).update.attributes.origin == .igp)
    }
}
