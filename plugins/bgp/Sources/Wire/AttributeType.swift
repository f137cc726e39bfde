/// The attributes that are known here (https://www.iana.org/assignments/bgp-parameters).
enum AttributeType: UInt8, Sendable, CaseIterable {
    case origin = 1
    case asPath = 2
    case nextHop = 3
    case med = 4
    case localPreference = 5
    case atomicAggregate = 6
    case aggregator = 7
    case communities = 8
    case originatorID = 9
    case clusterList = 10
    case reach = 14
    case unreach = 15
    case extendedCommunities = 16
    case as4Path = 17
    case as4Aggregator = 18
    case largeCommunities = 32

    /// The bits Optional and Transitive as they have to be.
    var flags: AttributeFlags {
        switch self {
        case .origin, .asPath, .nextHop, .localPreference, .atomicAggregate: .transitive
        case .med, .originatorID, .clusterList, .reach, .unreach: .optional
        case .aggregator, .communities, .extendedCommunities, .as4Path, .as4Aggregator, .largeCommunities:
            [.optional, .transitive]
        }
    }

    /// What is done about one that is malformed (RFC 7606 §3 e and f, §5.3, §7; RFC 6793 §6; RFC 8092 §5).
    var reaction: Reaction {
        switch self {
        case .atomicAggregate, .aggregator, .as4Path, .as4Aggregator: .attributeDiscard
        case .reach, .unreach: .sessionReset
        default: .treatAsWithdraw
        }
    }

    /// Whether one from an external peer is dropped without a look (RFC 7606 §7.5, §7.9, §7.10).
    var isInternal: Bool { [.localPreference, .originatorID, .clusterList].contains(self) }
}

/// RFC 4271 §4.3.
struct AttributeFlags: OptionSet {
    let rawValue: UInt8

    static let optional = AttributeFlags(rawValue: 0x80)
    static let transitive = AttributeFlags(rawValue: 0x40)
    static let partial = AttributeFlags(rawValue: 0x20)
    /// The length has two bytes.
    static let extendedLength = AttributeFlags(rawValue: 0x10)
}
