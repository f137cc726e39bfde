import KnetCore

/// Makes UPDATE messages of at most 4096 bytes, each with as many prefixes as fit.
struct UpdateWriter {
    /// Attributes leave no room for a single prefix.
    struct AttributesTooLong: Error {}

    let context: UpdateContext

    /// - Parameters:
    ///   - prefixes: of the next hop's family.
    /// - Throws: `AttributesTooLong`.
    func announce(
        _ prefixes: some Sequence<CIDR>, nextHop: NextHop, _ attributes: PathAttributes
    ) throws(AttributesTooLong) -> [[UInt8]] {
        let family = nextHop.address.family
        let list = attributes.bytes(context, nextHop: family == .v4 ? nextHop : nil)
        let reach = AddressFamily(family).bytes + [UInt8(nextHop.bytes.count)] + nextHop.bytes + [0]
        // Beside the list: two lengths, and for IPv6 the head of MP_REACH_NLRI.
        let room = Frame.maximumLength - Frame.headerLength - 4 - list.count - (family == .v4 ? 0 : 4 + reach.count)
        guard room > family.bits / 8 else { throw AttributesTooLong() }
        return Self.parts(of: prefixes, room: room).map { routes in
            guard family == .v6 else { return Self.update(attributes: list, routes: routes) }
            var attributes: [UInt8] = []
            // Before all others (RFC 7606 §5.1).
            attributes.append(attribute: .reach, reach + routes)
            return Self.update(attributes: attributes + list)
        }
    }

    /// - Parameter prefixes: of any family.
    func withdraw(_ prefixes: some Sequence<CIDR>) -> [[UInt8]] {
        let room = Frame.maximumLength - Frame.headerLength - 4
        let four = Self.parts(of: prefixes.lazy.filter { $0.family == .v4 }, room: room)
        let six = Self.parts(of: prefixes.lazy.filter { $0.family == .v6 }, room: room - 7)
        return four.map { Self.update(withdrawn: $0) } + six.map { Self.unreach(.v6, $0) }
    }

    /// All routes of the family were told (RFC 4724 §2).
    func endOfRIB(_ family: IPFamily) -> [UInt8] { family == .v4 ? Self.update() : Self.unreach(family, []) }

    /// Prefixes as they stand in a message, in parts of at most `room` bytes.
    private static func parts(of prefixes: some Sequence<CIDR>, room: Int) -> [[UInt8]] {
        var (parts, part): ([[UInt8]], [UInt8]) = ([], [])
        for prefix in prefixes {
            if part.count + 1 + (prefix.prefixLength + 7) / 8 > room {
                parts.append(part)
                part = []
            }
            if part.isEmpty { part.reserveCapacity(room) }
            part.append(prefix: prefix)
        }
        return part.isEmpty ? parts : parts + [part]
    }

    private static func unreach(_ family: IPFamily, _ routes: [UInt8]) -> [UInt8] {
        var attributes: [UInt8] = []
        attributes.append(attribute: .unreach, AddressFamily(family).bytes + routes)
        return update(attributes: attributes)
    }

    private static func update(withdrawn: [UInt8] = [], attributes: [UInt8] = [], routes: [UInt8] = []) -> [UInt8] {
        var body: [UInt8] = []
        body.append(number: UInt16(withdrawn.count))
        body += withdrawn
        body.append(number: UInt16(attributes.count))
        return Frame.message(.update, body + attributes + routes)
    }
}

extension AddressFamily {
    /// Two bytes and one.
    fileprivate var bytes: [UInt8] { [UInt8(afi >> 8), UInt8(truncatingIfNeeded: afi), safi] }
}
