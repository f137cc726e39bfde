import KnetCore

/// Numbers by which things are named in the kernel: digests of what they are, so that another process finds them again, and
/// never the same for two things.
struct KernelNumbers {
    /// Something that has a set or a chain of its own.
    enum Thing: Hashable {
        case pods(PodMatcher)
        case port(NamedPort)
        case domain(String)
        case ranges([AddressSpan])
        case ports([PortSpan])
        case policy(ObjectKey)
        case tier(Direction, [ObjectKey])
        case pod(Direction, PolicyIndex.Profile)
    }

    private struct Use {
        let number: UInt64
        var count: Int
    }

    private var uses: [Thing: Use] = [:]
    private var taken: Set<UInt64> = []

    subscript(_ thing: Thing) -> UInt64? { uses[thing]?.number }

    /// - Returns: whether it was not used before.
    @discardableResult
    mutating func take(_ thing: Thing) -> Bool {
        if uses[thing] != nil {
            uses[thing]?.count += 1
            return false
        }
        // Of two with the same digest, whoever comes second takes another. A digest is no secret: names can be made to meet.
        var (salt, number) = (0, StableHash.of("\(thing)"))
        while taken.contains(number) {
            salt += 1
            number = StableHash.of("\(thing) \(salt)")
        }
        taken.insert(number)
        uses[thing] = Use(number: number, count: 1)
        return true
    }

    /// - Returns: whether it is not used any more.
    @discardableResult
    mutating func drop(_ thing: Thing) -> Bool {
        uses[thing]?.count -= 1
        guard let use = uses[thing], use.count <= 0 else { return false }
        taken.remove(use.number)
        uses[thing] = nil
        return true
    }

    var things: Dictionary<Thing, UInt64> { uses.mapValues(\.number) }
}
