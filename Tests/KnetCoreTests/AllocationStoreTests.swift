import FoundationEssentials
import KnetCore
import TestSupport
import Testing

@Suite struct AllocationStoreTests {
    private let path =
        "\(FileManager.default.temporaryDirectory.path)/knetd-store-\(UInt64.random(in: 0...UInt64.max)).db"

    private func open(boot: String = "boot-1") throws -> AllocationStore {
        try AllocationStore(path: path, bootID: boot)
    }

    private func ranges(_ texts: String...) throws -> [AddressRange] {
        try texts.map { AddressRange(try CIDR.parse($0)) }
    }

    private func request(_ container: String, network: String = "net") -> KnetCore.Attachment {
        KnetCore.Attachment(
            id: AttachmentID(containerID: container, interface: "eth0"), network: network, podNamespace: "default",
            podName: container, namespacePath: "/netns/\(container)", namespaceCookie: UInt64.max)
    }

    private func take(_ store: AllocationStore, _ container: String, _ ranges: [AddressRange]) throws -> String {
        try store.reserve(request(container), from: ranges).addresses.map(\.description).joined(separator: " ")
    }

    private func free(_ store: AllocationStore, _ container: String) throws {
        try store.release([AttachmentID(containerID: container, interface: "eth0")])
    }

    @Test func anAttachmentHasOneAddressOfEachRange() throws {
        let store = try open()
        #expect(try take(store, "a", ranges("10.42.1.0/24", "fd42:0:0:1::/64")) == "10.42.1.1 fd42:0:0:1::1")
        #expect(try take(store, "b", ranges("10.42.1.0/24", "fd42:0:0:1::/64")) == "10.42.1.2 fd42:0:0:1::2")
    }

    @Test func anAddressFreedLastIsReusedLast() throws {
        let store = try open()
        let six = try ranges("10.42.1.0/29")
        for name in ["a", "b", "c", "d", "e", "f"] { _ = try take(store, name, six) }
        for name in ["d", "a", "c"] { try free(store, name) }
        #expect(try ["x", "y", "z"].map { try take(store, $0, six) } == ["10.42.1.4", "10.42.1.1", "10.42.1.3"])
    }

    @Test func aFreedAddressWaitsUntilAllOthersWereUsed() throws {
        let store = try open()
        let six = try ranges("10.42.1.0/29")
        var seen: [String] = []
        for turn in 0..<12 {
            seen.append(try take(store, "c\(turn)", six))
            try free(store, "c\(turn)")
        }
        #expect(Set(seen[0..<6]).count == 6)
        #expect(Array(seen[0..<6]) == Array(seen[6..<12]))
    }

    @Test func anExhaustedRangeSaysSoAndRecordsNothing() throws {
        let store = try open()
        let both = try ranges("10.42.1.0/29", "fd42::/64")
        for index in 0..<6 { _ = try take(store, "c\(index)", both) }
        let error = try #require(throws: RangeExhausted.self) { try take(store, "more", both) }
        #expect(error.inUse == 6)
        #expect("\(error)".contains("10.42.1.0/29") && "\(error)".contains("knetd status"))
        #expect(try store.attachments().count == 6)
        try free(store, "c3")
        #expect(try take(store, "more", both) == "10.42.1.4 fd42::7")
    }

    @Test func allocationsOutliveTheProcess() throws {
        var attachment = try open().reserve(request("a"), from: ranges("10.42.1.0/24"))
        let store = try open()
        #expect(try store.attachments() == [attachment])
        try store.complete(attachment.id)
        attachment.phase = .attached
        #expect(try open().attachment(attachment.id) == attachment)
        #expect(try take(store, "b", ranges("10.42.1.0/24")) == "10.42.1.2")
    }

    @Test func aRebootVoidsAllocationsAndTheirAddressesAreFreeAgain() throws {
        let six = try ranges("10.42.1.0/29")
        let before = try open(boot: "one")
        for index in 0..<6 { _ = try take(before, "c\(index)", six) }
        let after = try open(boot: "two")
        #expect(after.voidedByReboot == 6)
        #expect(try after.attachments().isEmpty)
        #expect(try Set((0..<6).map { try take(after, "d\($0)", six) }).count == 6)
        #expect(try open(boot: "two").voidedByReboot == 0)
    }

    @Test func theSameInterfaceTwiceIsAnError() throws {
        let store = try open()
        _ = try take(store, "a", ranges("10.42.1.0/24"))
        #expect(throws: (any Error).self) { try take(store, "a", ranges("10.42.1.0/24")) }
        #expect(try store.attachments().count == 1)
    }

    @Test func freeingWhatIsNotThereIsNoError() throws {
        try free(try open(), "nobody")
    }

    @Test func addressesOfARangeThatIsNoLongerOursAreNotHandedOut() throws {
        let store = try open()
        _ = try take(store, "a", ranges("10.42.1.0/24"))
        #expect(try take(store, "b", ranges("10.42.9.0/24")) == "10.42.9.1")
        try free(store, "a")
        #expect(try take(store, "c", ranges("10.42.9.0/24")) == "10.42.9.2")
    }

    @Test(arguments: 0..<20 as Range<UInt64>)
    func noAddressIsEverHeldTwice(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let store = try open()
        let range = try ranges("10.42.1.0/28", "fd42::/124")
        var held: [String: [IPAddress]] = [:]
        for step in 0..<120 {
            if Bool.random(using: &random) || held.isEmpty {
                do {
                    held["c\(step)"] = try store.reserve(request("c\(step)"), from: range).addresses
                } catch is RangeExhausted {
                    #expect(held.count == 14, "seed \(seed)")
                }
            } else if let name = held.keys.sorted().randomElement(using: &random) {
                try free(store, name)
                held[name] = nil
            }
            let all = held.values.joined()
            #expect(Set(all).count == all.count, "seed \(seed), step \(step)")
        }
        #expect(try store.attachments().count == held.count)
    }
}
