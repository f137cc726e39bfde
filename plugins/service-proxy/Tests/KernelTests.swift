import KnetCore
import KnetLinux
import TestSupport
import Testing

@testable import ServiceProxyPlugin

/// The table and its elements in a real kernel.
@Suite(.enabled(if: Root.isAvailable)) struct KernelTests {
    private func inNamespace(_ body: @Sendable (ServiceKernel, Nftables) throws -> Void) throws {
        try NetworkNamespace.anonymous().run {
            let nftables = try Nftables()
            try body(try ServiceKernel(nftables: nftables, pool: NetlinkPool()), nftables)
        }
    }

    private let rules = ServiceRules(
        ranges: [CIDR("10.42.1.0/24"), CIDR("fd42:0:0:1::/64")].compactMap { $0 },
        serviceRanges: [CIDR("10.96.0.0/12")].compactMap { $0 }, tells: true, isBesidePrograms: true)

    private func backends(_ count: Int, _ first: UInt32 = 1) -> Set<Backend> {
        Set((0..<UInt32(count)).map { Backend(address: .v4(0x0A2A_0100 + first + $0), port: 8080) })
    }

    private func frontend(
        _ text: String, _ backends: Set<Backend>, method: Balancer.Method = .random, more: [Fact] = []
    )
        -> Frontend
    {
        let table = Slots.table(backends, method)
        return Frontend(
            id: FrontendID(transport: .tcp, address: IPAddress(text) ?? .v4(0), port: 80),
            facts: [.member(.services), .member(.balancer(.cluster, table.balancer))] + more
                + table.slots.map { .slot(.cluster, $0.key, $0.value) })
    }

    @Test func whatIsWrittenIsReadBack() throws {
        try inNamespace { kernel, nftables in
            let v6 = Set([Backend(address: try #require(IPAddress("fd42:0:0:1::5")), port: 443)])
            let sources: [Fact] = [
                .member(.restricted), .source(CIDR("192.168.0.0/16")!), .source(CIDR("10.1.2.3/32")!),
            ]
            let entries: [ServiceEntry] = [
                .rules(rules), .clusterIP(IPAddress("10.96.0.1")!), .hairpin(IPAddress("10.42.1.5")!),
                .hairpin(IPAddress("fd42:0:0:1::5")!),
                .frontend(frontend("10.96.0.1", backends(3), more: [.member(.affine(10_800))])),
                .frontend(frontend("10.96.0.2", backends(10), more: sources)),
                .frontend(frontend("10.96.0.3", backends(10), method: .source)),
                .frontend(frontend("10.96.0.4", backends(2), method: .flow, more: [.member(.affine(90_061))])),
                .frontend(frontend("fd00::1", v6, more: [.member(.affine(60))])),
            ]
            var outcome = kernel.apply(KernelChanges(add: entries))
            #expect(outcome.failures.map(\.reason) == [])
            if outcome.mustReadBack {
                _ = try kernel.read()
                outcome = kernel.apply(KernelChanges(add: entries.filter { $0.id != .rules }))
                #expect(outcome.failures.map(\.reason) == [])
            }
            #expect(try Set(kernel.read()) == Set(entries))
            // This libnftables prints rules in the form in which we write them.
            let optional = entries.flatMap { $0.optionalSets }
            let written = ServiceTable(rules, optional: Set(optional)).listing.split(separator: "\n")
            let listed = try nftables.list(table: ServiceTable.name)?.split(separator: "\n") ?? []
            #expect(listed.difference(from: written).isEmpty, "\(listed.difference(from: written))")
            // Another process reads the same.
            #expect(try Set(ServiceKernel(nftables: nftables, pool: NetlinkPool()).read()) == Set(entries))
        }
    }

    @Test func oneEndpointIsFewElementsAndAClassGoesWithItsLastUse() throws {
        try inNamespace { kernel, _ in
            let before = frontend("10.96.0.1", backends(4))
            let after = frontend("10.96.0.1", backends(5))
            _ = kernel.apply(KernelChanges(add: [.rules(rules), .frontend(before)]))
            _ = try kernel.read()
            _ = kernel.apply(KernelChanges(add: [.frontend(before)]))
            var change = KernelChanges<ServiceEntry>(add: [.frontend(after)])
            change.replaced = [ServiceEntry.frontend(before).id: .frontend(before)]
            let outcome = kernel.apply(change)
            #expect(outcome.failures.map(\.reason) == [] && !outcome.mustReadBack)
            // The class of four is empty: its set goes with the next rewrite of the rules.
            let read = try kernel.read()
            #expect(Set(read) == [.rules(nil), .frontend(after)], "\(read)")
            #expect(kernel.apply(KernelChanges(add: [.rules(rules)])).failures.map(\.reason) == [])
            #expect(try Set(kernel.read()) == [.rules(rules), .frontend(after)])
        }
    }

    @Test func exactlyTheElementsThatChangeAreSent() throws {
        try inNamespace { kernel, _ in
            var (before, endpoints) = (frontend("10.96.0.1", backends(10)), backends(10))
            _ = kernel.apply(KernelChanges(add: [.rules(rules), .frontend(before)]))
            _ = try kernel.read()
            _ = kernel.apply(KernelChanges(add: [.frontend(before)]))
            func held() throws -> Set<Fact> { Set(try #require(kernel.frontends()[before.id]).facts) }
            for number in 0..<100 {
                let (old, written) = (try held(), KernelWrites.total)
                endpoints.remove(try #require(endpoints.min()))
                endpoints.formUnion(backends(1, UInt32(100 + number)))
                let after = frontend("10.96.0.1", endpoints)
                var change = KernelChanges<ServiceEntry>(add: [.frontend(after)])
                change.replaced = [ServiceEntry.frontend(before).id: .frontend(before)]
                #expect(kernel.apply(change).failures.map(\.reason) == [])
                let sent = KernelWrites.total - written
                let changed = try held().symmetricDifference(old)
                #expect(sent == changed.count && sent > 0, "\(sent) for \(changed)")
                before = after
            }
        }
    }

    @Test func rulesOfOthersAreSeen() throws {
        try inNamespace { kernel, nftables in
            _ = kernel.apply(KernelChanges(add: [.rules(rules)]))
            #expect(try kernel.read() == [.rules(rules)])
            try nftables.run("flush chain \(ServiceTable.name) services")
            #expect(try kernel.read() == [.rules(nil)])
            #expect(kernel.apply(KernelChanges(add: [.rules(rules)])).mustReadBack == false)
            #expect(try kernel.read() == [.rules(rules)])
            try nftables.run("delete table \(ServiceTable.name)")
            #expect(try kernel.read() == [])
        }
    }
}
