import KnetCore

/// Which slot an endpoint has. That follows from the set of endpoints alone, whatever the order of events was: so a restart
/// computes what the kernel has already, and nodes agree.
enum Slots {
    struct Table: Equatable {
        let balancer: Balancer
        let slots: [UInt32: Backend]
    }

    /// Endpoints that one frontend can have.
    static let limit = 16384

    static func table(_ backends: Set<Backend>, _ method: Balancer.Method) -> Table {
        switch method {
        case .random: sparse(backends)
        case .source, .flow: consistent(backends, method)
        }
    }

    /// Each endpoint has one slot of the next power of two, by open addressing in an order of priorities. So a change of
    /// one endpoint changes few slots. Where slots are empty, one more, the last, has the endpoint for draws that meet none.
    private static func sparse(_ backends: Set<Backend>) -> Table {
        let size = powerOfTwo(atLeast: backends.count)
        var slots: [UInt32: Backend] = [:]
        slots.reserveCapacity(backends.count + 1)
        let ranked = rank(backends)
        for (hash, backend) in ranked {
            var slot = UInt32(truncatingIfNeeded: hash >> 32) & UInt32(size - 1)
            while slots[slot] != nil { slot = (slot + 1) & UInt32(size - 1) }
            slots[slot] = backend
        }
        if ranked.count < size, let first = ranked.first { slots[UInt32(size)] = first.backend }
        return Table(balancer: Balancer(.random, size), slots: slots)
    }

    /// Every slot has an endpoint, and few change when one endpoint comes or goes: D. Eisenbud and others, "Maglev: A Fast
    /// and Reliable Software Network Load Balancer", NSDI 2016, 3.4. With a power of two any odd step visits all slots.
    private static func consistent(_ backends: Set<Backend>, _ method: Balancer.Method) -> Table {
        let size = max(64, powerOfTwo(atLeast: backends.count * 8))
        let ranked = rank(backends).map {
            (start: $0.hash >> 32, step: ($0.hash & 0xFFFF_FFFF) | 1, backend: $0.backend)
        }
        var slots: [UInt32: Backend] = [:]
        slots.reserveCapacity(size)
        var next = [UInt64](repeating: 0, count: ranked.count)
        filling: while true {
            for (index, one) in ranked.enumerated() {
                var slot: UInt32
                repeat {
                    slot = UInt32(truncatingIfNeeded: (one.start &+ next[index] &* one.step) & UInt64(size - 1))
                    next[index] += 1
                } while slots[slot] != nil
                slots[slot] = one.backend
                if slots.count == size { break filling }
            }
        }
        return Table(balancer: Balancer(method, size), slots: slots)
    }

    private static func rank(_ backends: Set<Backend>) -> [(hash: UInt64, backend: Backend)] {
        backends.map { (hash($0), $0) }.sorted { ($0.hash, $0.backend) < ($1.hash, $1.backend) }
    }

    private static func powerOfTwo(atLeast count: Int) -> Int {
        count <= 1 ? 1 : 1 << (Int.bitWidth - (count - 1).leadingZeroBitCount)
    }

    /// The same in every process and on every node; the finaliser is that of SplitMix64 (https://prng.di.unimi.it/splitmix64.c).
    private static func hash(_ backend: Backend) -> UInt64 {
        func mix(_ value: UInt64) -> UInt64 {
            var z = value &+ 0x9E37_79B9_7F4A_7C15
            z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
            z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
            return z ^ (z >> 31)
        }
        let number = backend.address.number
        let high = mix(UInt64(truncatingIfNeeded: number >> 64))
        return mix(mix(high ^ UInt64(truncatingIfNeeded: number)) ^ UInt64(backend.port))
    }
}
