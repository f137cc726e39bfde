import FoundationEssentials
import HashTreeCollections
import KnetCore
import Testing

@testable import FlowsPlugin

/// What is kept of what is told, and under which names.
@Suite struct HeldFlowsTests {
    private static func end(_ address: String, _ port: UInt16? = 80) -> FlowEvent.End {
        .init(IPAddress(address) ?? .v4(0), port: port)
    }

    private static func object(_ text: String, _ kind: ObjectKey.Kind) throws -> AnyClusterObject {
        try AnyClusterObject(try JSONValue(parsing: Data(text.utf8)), kind)
    }

    /// Pods default/a and default/b, and the Service default/s at 10.96.0.1:80 and node port 30080.
    private static func held(keeping kept: Int = 16) throws -> (HeldFlows, StateStore) {
        let (held, store) = (HeldFlows(.init(kept: kept)), StateStore())
        let objects = try [
            object(
                #"{"kind": "Pod", "metadata": {"name": "a", "namespace": "default"}, "status": {"podIP": "10.42.1.2"}}"#,
                .pod),
            object(
                #"{"kind": "Pod", "metadata": {"name": "b", "namespace": "default"}, "status": {"podIP": "10.42.1.3"}}"#,
                .pod),
            object(
                #"{"kind": "Service", "metadata": {"name": "s", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80, "nodePort": 30080}]}}"#,
                .service),
        ]
        var node = LocalNode(name: "node1", podCIDRs: [], uplinks: [:])
        node.addresses = [.v4(0xC000_0201)]
        store.update([.local]) { $0.set(local: node) }
        for object in objects { store.update([object.key]) { $0.set(object) } }
        held.follow(Set(objects.map(\.key)).union([.local]), in: store.current)
        return (held, store)
    }

    @Test func endsHaveTheNamesOfPodsAndServices() throws {
        let (held, store) = try Self.held()
        var event = FlowEvent(.began, transport: 6, from: Self.end("10.42.1.2", 4000), to: Self.end("10.42.1.3", 8080))
        event.asked = Self.end("10.96.0.1")
        held.note(event)
        event.asked = Self.end("192.0.2.1", 30080)
        held.note(event)
        event.asked = Self.end("10.96.0.1", 81)
        held.note(event)
        event.asked = Self.end("10.96.0.1")
        event.transport = 17
        held.note(event)
        let found = held.records(after: 0) { _ in true }.found
        #expect(found.map(\.service) == ["default/s", "default/s", nil, nil])
        #expect(found.allSatisfy { $0.sourcePod == "default/a" && $0.destinationPod == "default/b" })
        // Names are those of the time of the event.
        let key = ObjectKey(.pod, namespace: "default", name: "a")
        store.update([key]) { $0.remove(key) }
        held.follow([key], in: store.current)
        held.note(event)
        #expect(held.records(after: 4) { _ in true }.found.map(\.sourcePod) == [nil])
        #expect(held.records(after: 0) { _ in true }.found.first?.sourcePod == "default/a")
    }

    /// A pod may be gone, and another have its address, when its connection's end is told.
    @Test func anEndHasTheNamesOfItsBeginning() throws {
        let (held, store) = try Self.held()
        var event = FlowEvent(.began, transport: 6, from: Self.end("10.42.1.2", 4000), to: Self.end("192.0.2.9"))
        held.note(event)
        let key = ObjectKey(.pod, namespace: "default", name: "a")
        store.update([key]) { $0.remove(key) }
        held.follow([key], in: store.current)
        event.kind = .running
        held.note(event)
        event.kind = .ended
        held.note(event)
        #expect(
            held.records(after: 0) { _ in true }.found.map(\.sourcePod) == ["default/a", "default/a", "default/a"])
        held.note(event)
        #expect(held.records(after: 0) { _ in true }.last == 3, "it has ended once")
    }

    @Test func whoIsDeniedAndTriesAgainIsToldOnce() throws {
        let (held, _) = try Self.held()
        var event = FlowEvent(.denied, transport: 6, from: Self.end("10.42.1.2", 4000), to: Self.end("10.42.1.3"))
        for _ in 0..<5 { held.note(event) }
        event.reason = "another"
        held.note(event)
        event.source = Self.end("10.42.1.2", 4001)
        held.note(event)
        #expect(held.records(after: 0) { _ in true }.last == 3)
        // One that asks for a port that a Service has not is told with the Service.
        held.note(FlowEvent(.refused, transport: 6, from: Self.end("192.0.2.7"), to: Self.end("10.96.0.1", 81)))
        #expect(held.records(after: 3) { _ in true }.found.map(\.service) == ["default/s"])
    }

    @Test func connectionsOfNobodyAreNotKept() throws {
        let (held, _) = try Self.held()
        held.note(FlowEvent(.began, transport: 6, from: Self.end("192.0.2.1"), to: Self.end("192.0.2.7")))
        #expect(held.records(after: 0) { _ in true }.last == 0)
        held.note(FlowEvent(.refused, transport: 6, from: Self.end("192.0.2.7"), to: Self.end("10.96.0.1")))
        #expect(held.records(after: 0) { _ in true }.last == 1)
    }

    @Test func theLastOnesAreKept() throws {
        let (held, _) = try Self.held(keeping: 16)
        for port in 1...40 as ClosedRange<UInt16> {
            held.note(FlowEvent(.began, transport: 17, from: Self.end("10.42.1.2", port), to: Self.end("8.8.8.8", 53)))
        }
        let all = held.records(after: 0) { _ in true }
        #expect(all.found.map(\.number) == Array(25...40) && all.last == 40)
        #expect(all.found.map { $0.event.source.port } == (25...40).map { $0 })
        #expect(held.records(after: 38) { _ in true }.found.map(\.number) == [39, 40])
        #expect(held.records(after: 40) { _ in true }.found.isEmpty)
        #expect(held.records(after: 99) { _ in true }.found.count == 16, "the number is of a daemon before")
        #expect(held.counts == [.began: 40])
    }

    /// Who left the stack has not ended when that forgets it.
    @Test func theEndIsToldOnceByWhomItIsKnownTo() throws {
        let (held, _) = try Self.held()
        func note(_ kind: FlowEvent.Kind, isPastStack: Bool) {
            var event = FlowEvent(kind, transport: 6, from: Self.end("10.42.1.2", 4000), to: Self.end("10.42.1.3"))
            event.isPastStack = isPastStack
            held.note(event)
        }
        // The stack may forget it before its end or after.
        for ends in [[false, true], [true, false]] {
            note(.began, isPastStack: false)
            note(.moved, isPastStack: true)
            for end in ends { note(.ended, isPastStack: end) }
        }
        note(.began, isPastStack: false)
        note(.ended, isPastStack: false)
        let kinds = held.records(after: 0) { _ in true }.found.map { ($0.event.kind, $0.event.isPastStack) }
        #expect(kinds.map(\.0) == [.began, .ended, .began, .ended, .began, .ended])
        #expect(kinds.map(\.1) == [false, true, false, true, false, false])
    }
}
