import KnetCore

extension AttributeReader {
    typealias Fault = (String, UpdateError)

    private static let badLength: Fault = ("length", .attributeLength)

    /// Reads the value of a known attribute into its place.
    /// - Returns: what is wrong with it.
    mutating func readValue(_ value: ByteReader, _ type: AttributeType) -> Fault? {
        switch type {
        case .origin: readOrigin(value)
        case .asPath: readPath(value)
        case .nextHop: readNextHop(value)
        case .med: readNumber(value, into: \.attributes.med)
        case .localPreference: readNumber(value, into: \.attributes.localPreference)
        case .originatorID: readNumber(value, into: \.attributes.originatorID)
        case .atomicAggregate: readAtomicAggregate(value)
        case .aggregator:
            readAggregator(value, octets: context.hasFourOctetAS ? 4 : 2, into: \.attributes.aggregator)
        case .as4Aggregator: readAggregator(value, octets: 4, into: \.as4Aggregator)
        case .as4Path: readAS4Path(value)
        case .communities, .extendedCommunities, .clusterList, .largeCommunities: readList(value, type)
        case .reach: readReach(value)
        case .unreach: readUnreach(value)
        }
    }

    private mutating func readOrigin(_ value: ByteReader) -> Fault? {
        var value = value
        guard value.count == 1, let number = value.byte() else { return Self.badLength }
        guard let origin = Origin(rawValue: number) else { return ("not defined", .invalidOrigin) }
        attributes.origin = origin
        return nil
    }

    private mutating func readPath(_ value: ByteReader) -> Fault? {
        guard let path = ASPath.read(value, octets: context.hasFourOctetAS ? 4 : 2) else {
            return ("segments", .malformedASPath)
        }
        attributes.asPath = path
        return nil
    }

    private mutating func readAS4Path(_ value: ByteReader) -> Fault? {
        guard let path = ASPath.read(value, octets: 4, dropsConfederations: true), !path.segments.isEmpty else {
            return ("segments", .optionalAttribute)
        }
        as4Path = path
        return nil
    }

    private mutating func readNextHop(_ value: ByteReader) -> Fault? {
        guard let hop = NextHop(.v4, value.rest) else { return Self.badLength }
        guard hop.isHost else { return ("not a host's address", .invalidNextHop) }
        nextHop = hop
        return nil
    }

    private mutating func readNumber(
        _ value: ByteReader, into place: WritableKeyPath<AttributeReader, UInt32?>
    ) -> Fault? {
        var value = value
        guard value.count == 4 else { return Self.badLength }
        self[keyPath: place] = value.long()
        return nil
    }

    private mutating func readAtomicAggregate(_ value: ByteReader) -> Fault? {
        guard value.isEmpty else { return Self.badLength }
        attributes.isAtomicAggregate = true
        return nil
    }

    private mutating func readAggregator(
        _ value: ByteReader, octets: Int, into place: WritableKeyPath<AttributeReader, Aggregator?>
    ) -> Fault? {
        var value = value
        guard value.count == octets + 4, let number = octets == 4 ? value.long() : value.short().map(UInt32.init),
            let identifier = value.long()
        else { return Self.badLength }
        // RFC 7607.
        guard number != 0 else { return ("AS 0", .optionalAttribute) }
        self[keyPath: place] = Aggregator(autonomousSystem: number, identifier: identifier)
        return nil
    }

    private mutating func readList(_ value: ByteReader, _ type: AttributeType) -> Fault? {
        var value = value
        guard !value.isEmpty else { return Self.badLength }
        switch type {
        case .extendedCommunities:
            guard let numbers = value.numbers(UInt64.self) else { return Self.badLength }
            attributes.extendedCommunities = numbers
        case .largeCommunities:
            guard value.count % 12 == 0 else { return Self.badLength }
            while let administrator = value.long(), let first = value.long(), let second = value.long() {
                let community = LargeCommunity(administrator: administrator, first: first, second: second)
                // RFC 8092 §5.
                if !attributes.largeCommunities.contains(community) { attributes.largeCommunities.append(community) }
            }
        default:
            guard let numbers = value.numbers(UInt32.self) else { return Self.badLength }
            if type == .communities {
                attributes.communities = numbers.map(Community.init)
            } else {
                attributes.clusterList = numbers
            }
        }
        return nil
    }

    private mutating func readReach(_ value: ByteReader) -> Fault? {
        var value = value
        guard value.count >= 5, let afi = value.short(), let safi = value.byte(), let length = value.byte(),
            let hop = value.part(Int(length)), value.byte() != nil
        else { return ("length", .optionalAttribute) }
        guard let family = negotiated(afi, safi) else { return nil }
        guard let hop = NextHop(family, hop.rest) else { return ("length of the next hop", .optionalAttribute) }
        var prefixes: [CIDR] = []
        guard value.prefixes(family, into: &prefixes) else { return ("not prefixes", .invalidNetworkField) }
        reach = Announcement(nextHop: hop, prefixes: prefixes)
        return nil
    }

    private mutating func readUnreach(_ value: ByteReader) -> Fault? {
        var value = value
        guard let afi = value.short(), let safi = value.byte() else { return ("length", .optionalAttribute) }
        guard let family = negotiated(afi, safi) else { return nil }
        var prefixes: [CIDR] = []
        guard value.prefixes(family, into: &prefixes) else { return ("not prefixes", .invalidNetworkField) }
        unreach = (family, prefixes)
        return nil
    }

    private func negotiated(_ afi: UInt16, _ safi: UInt8) -> IPFamily? {
        AddressFamily(afi: afi, safi: safi).unicast.flatMap { context.families.contains($0) ? $0 : nil }
    }
}
