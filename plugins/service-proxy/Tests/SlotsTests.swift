import KnetCore
import Testing

@testable import ServiceProxyPlugin

private func backends(_ count: Int, from first: UInt32 = 1) -> Set<Backend> {
    Set((0..<UInt32(count)).map { Backend(address: .v4(0x0A2A_0000 + first + $0), port: 8080) })
}

@Test(arguments: [1, 2, 3, 4, 5, 7, 8, 10, 100, 1000]) func everyEndpointHasOneSlotOfThePowerOfTwo(count: Int) {
    let table = Slots.table(backends(count), .random)
    let size = table.balancer.size
    #expect(size >= count && size < 2 * count && size & (size - 1) == 0)
    let real = table.slots.filter { $0.key < size }
    #expect(Set(real.values) == backends(count) && real.count == count)
    #expect(table.slots[UInt32(size)] == nil || count < size)
    #expect((table.slots[UInt32(size)] != nil) == (count < size))
}

@Test func oneEndpointChangesFewSlots() {
    var changed: [Int] = []
    for gone in 1...10 as ClosedRange<UInt32> {
        let all = backends(11)
        let less = all.filter { $0.address != .v4(0x0A2A_0000 + gone) }
        let (before, after) = (Slots.table(all, .random).slots, Slots.table(less, .random).slots)
        changed.append(Set(before.keys).union(after.keys).count { before[$0] != after[$0] })
    }
    #expect(changed.max() ?? 0 <= 8)
    #expect(changed.reduce(0, +) <= 35)
}

@Test(arguments: [1, 3, 7, 100]) func aConsistentTableIsFullAndFair(count: Int) {
    let table = Slots.table(backends(count), .flow)
    #expect(table.slots.count == table.balancer.size)
    let shares = Dictionary(grouping: table.slots.values) { $0 }.mapValues(\.count)
    #expect(shares.count == count)
    let mean = Double(table.balancer.size) / Double(count)
    #expect(shares.values.allSatisfy { abs(Double($0) - mean) <= 1 })
}

@Test func aConsistentTableKeepsMostSlotsWhenAnEndpointGoes() {
    let (before, after) = (Slots.table(backends(10), .source).slots, Slots.table(backends(9), .source).slots)
    let gone = backends(10).subtracting(backends(9))
    let moved = before.count { after[$0.key] != $0.value && !gone.contains($0.value) }
    #expect(moved <= before.count / 4)
}
