import KnetCore
import KnetLinux
import TestSupport
import Testing

/// Tables by nf_tables' own messages, in a real kernel.
@Suite(.enabled(if: Root.isAvailable)) struct TableTests {
    private func inNamespace(_ body: @Sendable (SetElements) throws -> Void) throws {
        try NetworkNamespace.anonymous().run { try body(try SetElements(table: "knetd_test")) }
    }

    private static let ports: SetDefinition = {
        var set = SetDefinition("ports", [.transport, .port])
        set.hasIntervals = true
        return set
    }()
    private static let blocks: SetDefinition = {
        var set = SetDefinition("blocks", [.address(.v4)])
        set.hasIntervals = true
        set.comment = "with \"quotes\""
        return set
    }()
    private static let senders: SetDefinition = {
        var set = SetDefinition("senders", [.interface])
        set.isVerdictMap = true
        return set
    }()

    private static let rules = [
        RuleDefinition(
            [.isConnection(RuleExpression.established | RuleExpression.related), .verdict(.accept)], for: "under way"),
        RuleDefinition([.isReply, .verdict(.accept)]),
        RuleDefinition(
            [
                .isTransport(58), .transportHeader(offset: 0, length: 1, to: 0), .isByte(133...136, at: 0),
                .verdict(.accept),
            ]),
        RuleDefinition([.isFrom(interfaces: "knet"), .interface(to: 0), .lookUpVerdict(map: "senders", at: 0)]),
        RuleDefinition([
            .isFamily(.v4), .address(.v4, isSource: true, to: 0), .isElement(of: "blocks", at: 0), .transport(to: 0),
            .transportHeader(offset: 2, length: 2, to: 1), .isNoElement(of: "ports", at: 0), .count("dropped"),
            .limit(perSecond: 10, burst: 5), .log(prefix: "dropped", group: 107, bytes: 128), .verdict(.drop),
        ]),
    ]

    private static func changes() -> TableChanges {
        var changes = TableChanges()
        changes.counters = ["dropped"]
        changes.sets = [ports, blocks, senders]
        changes.chains = [
            ChainDefinition("hook", hook: ChainHook(.forward, priority: -20), rules),
            ChainDefinition("other", [RuleDefinition([.verdict(.drop)], for: "all")]),
        ]
        changes.elements.added = [
            "ports": [SetElement(key: [6, 0, 0, 0, 0, 80, 0, 0], lastKey: [6, 0, 0, 0, 0, 90, 0, 0])],
            "blocks": [SetElement(key: [10, 0, 0, 0]), SetElement(key: [11, 0, 0, 0], isEnd: true)],
            "senders": [SetElement(key: Array("knet1".utf8) + Array(repeating: 0, count: 11), verdict: .goto("other"))],
        ]
        return changes
    }

    @Test func whatIsWrittenIsReadBackAndPrintedByNft() throws {
        try inNamespace { elements in
            #expect(try elements.contents() == nil)
            let changes = Self.changes()
            try elements.change(changes)
            let contents = try #require(try elements.contents())
            #expect(contents.counters.keys.sorted() == ["dropped"])
            #expect(Set(contents.sets) == Set(changes.sets))
            #expect(Set(contents.chains) == Set(changes.chains))
            for (set, written) in changes.elements.added {
                let read = try elements.read(set).sorted { $0.key.lexicographicallyPrecedes($1.key) }
                #expect(read == written, "\(set)")
            }
            #expect(try elements.contains([10, 200, 0, 1], in: "blocks"))
            #expect(try !elements.contains([11, 0, 0, 1], in: "blocks"))
            #expect(try elements.contains([6, 0, 0, 0, 0, 85, 0, 0], in: "ports"))
            #expect(try !elements.contains([17, 0, 0, 0, 0, 85, 0, 0], in: "ports"))
            let text = try #require(try Nftables().list(table: "inet knetd_test"))
            for line in [
                "type inet_proto . inet_service", "comment \"with ?quotes?\"",
                "type filter hook forward priority -20; policy accept;",
                "ct state established,related accept comment", "ct direction reply accept comment",
                "iifname \"knet*\" iifname vmap @senders",
                "ip saddr @blocks meta l4proto . th dport != @ports counter name \"dropped\" limit rate 10/second",
                "log prefix \"dropped\" group 107 snaplen 128 drop",
            ] {
                #expect(text.contains(line), "\(line) in \(text)")
            }
        }
    }

    @Test func chainsAreFilledAnewAndTakenAwayWithWhatLeadsToThem() throws {
        try inNamespace { elements in
            try elements.change(Self.changes())
            var changes = TableChanges()
            let filled = ChainDefinition(
                "hook", hook: ChainHook(.forward, priority: -20), [RuleDefinition([.verdict(.accept)], for: "all")])
            changes.chains = [filled]
            changes.removedChains = ["other"]
            changes.removedSets = ["senders", "blocks", "ports"]
            changes.removedCounters = ["dropped"]
            // An element that leads to the chain is in its way.
            #expect(throws: SystemError.self) { try elements.change(changes) }
            changes.elements.removed["senders"] = Self.changes().elements.added["senders"]
            try elements.change(changes)
            let contents = try #require(try elements.contents())
            #expect(contents.chains == [filled] && contents.sets.isEmpty && contents.counters.isEmpty)
        }
    }
}
