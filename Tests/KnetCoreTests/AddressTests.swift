import KnetCore
import Testing

@Suite struct AddressTests {
    @Test(
        arguments: [
            ("10.42.0.1", "10.42.0.1"), ("0.0.0.0", "0.0.0.0"), ("255.255.255.255", "255.255.255.255"),
            ("fd42::1", "fd42::1"), ("FD42:0:0:0:0:0:0:1", "fd42::1"), ("::", "::"), ("::1", "::1"),
            ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"), ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
        ])
    func anAddressIsReadAndWrittenInItsShortestForm(text: String, canonical: String) throws {
        let address = try #require(IPAddress(text))
        #expect(address.description == canonical)
        #expect(IPAddress(bytes: address.bytes) == address)
    }

    @Test(arguments: [
        "", "10.42.0", "10.42.0.256", "010.0.0.1", "10.0.0.1/8", "fd42::1::2", "fe80::1%eth0", "x", " 1.2.3.4",
    ])
    func whatIsNoAddressIsRefused(text: String) {
        #expect(IPAddress(text) == nil)
    }

    @Test(
        arguments: [
            ("10.42.0.0/16", "10.42.255.255"), ("10.42.1.128/25", "10.42.1.255"), ("0.0.0.0/0", "255.255.255.255"),
            ("fd42::/48", "fd42::ffff:ffff:ffff:ffff:ffff"), ("::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("10.0.0.1/32", "10.0.0.1"),
        ])
    func aBlockKnowsItsLastAddress(text: String, last: String) throws {
        let block = try CIDR.parse(text)
        #expect(block.last.description == last)
        #expect(block.contains(block.base) && block.contains(block.last))
        #expect(block.description == text)
    }

    @Test func aBlockWithHostBitsNamesTheOneThatWasMeant() throws {
        let meant = try CIDR.parse("10.42.0.0/16")
        #expect(throws: CIDR.Fault.hostBitsSet("10.42.0.1/16", meant: meant)) { try CIDR.parse("10.42.0.1/16") }
    }

    @Test(arguments: [
        "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08", "10.0.0.0/", "fd42::/129", "/8", "10.0.0.0/8/9",
    ])
    func whatIsNoBlockIsRefused(text: String) {
        #expect(CIDR(text) == nil)
    }

    @Test func blocksOverlapWhereOneHoldsTheOther() throws {
        let wide = try CIDR.parse("10.42.0.0/16")
        let narrow = try CIDR.parse("10.42.7.0/24")
        let other = try CIDR.parse("10.43.0.0/16")
        #expect(wide.overlaps(narrow) && narrow.overlaps(wide))
        #expect(!wide.overlaps(other) && !narrow.overlaps(other))
        #expect(!wide.overlaps(try CIDR.parse("::/0")))
    }

    @Test func subnetsAreCountedWithinTheirBlock() throws {
        let block = try CIDR.parse("10.42.0.0/16")
        #expect(block.subnet(3, prefixLength: 24)?.description == "10.42.3.0/24")
        #expect(block.subnet(255, prefixLength: 24)?.description == "10.42.255.0/24")
        #expect(block.subnet(256, prefixLength: 24) == nil)
        #expect(block.subnet(0, prefixLength: 8) == nil)
        #expect(try CIDR.parse("fd42::/48").subnet(0xBEEF, prefixLength: 64)?.description == "fd42:0:0:beef::/64")
    }

    @Test func aDerivedMACAddressIsUnicastAndAlwaysTheSame() {
        let addresses = Set((0..<10_000).map { MACAddress(derivedFrom: "node\($0)") })
        #expect(addresses.count == 10_000)
        #expect(addresses.allSatisfy { $0.isUnicast && $0.bytes[0] & 2 != 0 })
        // Every node computes its peers' addresses: the value must not change between releases.
        #expect(MACAddress(derivedFrom: "vtep IPv4 node1").description == "7a:e0:4d:8d:14:b1")
    }

    @Test(arguments: ["", "02:00:00:00:00", "02:00:00:00:00:0", "02-00-00-00-00-00", "0g:00:00:00:00:00"])
    func whatIsNoMACAddressIsRefused(text: String) {
        #expect(MACAddress(text) == nil)
    }

    @Test(arguments: [
        ("127.0.0.1:80", true), ("[::1]:80", true), ("::1:80", false), ("127.0.0.1", false), ("[127.0.0.1]:80", false),
        ("127.0.0.1:0", false), ("1.2.3.4:65536", false),
    ])
    func anEndpointIsAnAddressWithAPort(text: String, valid: Bool) {
        #expect((Endpoint(text) != nil) == valid)
    }
}
