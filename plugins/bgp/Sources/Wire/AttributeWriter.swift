import KnetCore

extension PathAttributes {
    /// The list of attributes in the order of their types.
    /// - Parameter nextHop: for routes behind the attributes.
    func bytes(_ context: UpdateContext, nextHop: NextHop?) -> [UInt8] {
        let octets = context.hasFourOctetAS ? 4 : 2
        var list: [UInt8] = []
        list.append(attribute: .origin, [origin.rawValue])
        list.append(attribute: .asPath, asPath.bytes(octets: octets))
        if let nextHop { list.append(attribute: .nextHop, nextHop.address.bytes) }
        if let med { list.append(attribute: .med, numbers: [med]) }
        // Among internal peers it is never left out (RFC 4271 §5.1.5).
        if !context.isExternal { list.append(attribute: .localPreference, numbers: [localPreference ?? 100]) }
        if isAtomicAggregate { list.append(attribute: .atomicAggregate, []) }
        if let aggregator { list.append(attribute: .aggregator, aggregator.bytes(octets: octets)) }
        if !communities.isEmpty { list.append(attribute: .communities, numbers: communities.map(\.number)) }
        if !context.isExternal {
            if let originatorID { list.append(attribute: .originatorID, numbers: [originatorID]) }
            if !clusterList.isEmpty { list.append(attribute: .clusterList, numbers: clusterList) }
        }
        if !extendedCommunities.isEmpty { list.append(attribute: .extendedCommunities, numbers: extendedCommunities) }
        if octets == 2 {
            if asPath.isWide { list.append(attribute: .as4Path, asPath.bytes(octets: 4)) }
            if let aggregator, aggregator.autonomousSystem > UInt16.max {
                list.append(attribute: .as4Aggregator, aggregator.bytes(octets: 4))
            }
        }
        let large = largeCommunities.flatMap { [$0.administrator, $0.first, $0.second] }
        if !large.isEmpty { list.append(attribute: .largeCommunities, numbers: large) }
        for other in others {
            list.append(flags: [.optional, .transitive, .partial], type: other.type, other.value)
        }
        return list
    }
}

extension Aggregator {
    fileprivate func bytes(octets: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        if octets == 4 {
            bytes.append(number: autonomousSystem)
        } else {
            bytes.append(number: UInt16(exactly: autonomousSystem) ?? Open.asTrans)
        }
        bytes.append(number: identifier)
        return bytes
    }
}

extension [UInt8] {
    mutating func append(attribute type: AttributeType, _ value: [UInt8]) {
        append(flags: type.flags, type: type.rawValue, value)
    }

    fileprivate mutating func append(attribute type: AttributeType, numbers: [some FixedWidthInteger]) {
        var value: [UInt8] = []
        for number in numbers { value.append(number: number) }
        append(attribute: type, value)
    }

    /// A value of more than 65,535 bytes fits no message; its length is of no meaning then. For route lists the length
    /// always has two bytes, so that their room can be told beforehand.
    fileprivate mutating func append(flags: AttributeFlags, type: UInt8, _ value: [UInt8]) {
        let isLong =
            value.count > 255 || type == AttributeType.reach.rawValue || type == AttributeType.unreach.rawValue
        append(isLong ? flags.union(.extendedLength).rawValue : flags.rawValue)
        append(type)
        if isLong {
            append(number: UInt16(truncatingIfNeeded: value.count))
        } else {
            append(UInt8(value.count))
        }
        self += value
    }
}
