import KnetCore

/// What a route's prefixes have in common but for the next hop (RFC 4271 §5).
struct PathAttributes: Hashable, Sendable {
    var origin = Origin.igp
    var asPath = ASPath()
    /// MULTI_EXIT_DISC.
    var med: UInt32?
    /// Among internal peers only.
    var localPreference: UInt32?
    var isAtomicAggregate = false
    var aggregator: Aggregator?
    var communities: [Community] = []
    /// RFC 4360; passed on as they are.
    var extendedCommunities: [UInt64] = []
    var largeCommunities: [LargeCommunity] = []
    /// RFC 4456 §8; among internal peers only.
    var originatorID: UInt32?
    var clusterList: [UInt32] = []
    /// Transitive ones that are not known here.
    var others: [OtherAttribute] = []
}

/// Where a route began (RFC 4271 §4.3); the lower, the better.
enum Origin: UInt8, Sendable, CaseIterable {
    case igp = 0
    case egp = 1
    case incomplete = 2
}

struct Aggregator: Hashable, Sendable {
    var autonomousSystem: UInt32
    var identifier: UInt32
}

/// RFC 1997.
struct Community: Hashable, Sendable, CustomStringConvertible {
    let number: UInt32

    static let noExport = Community(number: 0xFFFF_FF01)
    static let noAdvertise = Community(number: 0xFFFF_FF02)
    static let noExportSubconfed = Community(number: 0xFFFF_FF03)

    var description: String { "\(number >> 16):\(number & 0xFFFF)" }
}

/// RFC 8092.
struct LargeCommunity: Hashable, Sendable, CustomStringConvertible {
    let administrator: UInt32
    let first: UInt32
    let second: UInt32

    var description: String { "\(administrator):\(first):\(second)" }
}

/// An optional transitive attribute that is not known here. It is passed on with the bit Partial (RFC 4271 §5).
struct OtherAttribute: Hashable, Sendable {
    let type: UInt8
    let value: [UInt8]
}

/// Where packets for a prefix are sent.
struct NextHop: Hashable, Sendable {
    let address: IPAddress
    /// Of IPv6, where the peer said both (RFC 2545 §3).
    let linkLocal: IPAddress?

    init(_ address: IPAddress, linkLocal: IPAddress? = nil) {
        self.address = address
        self.linkLocal = linkLocal
    }

    /// From the bytes of MP_REACH_NLRI; `nil` where their count is not the family's.
    init?(_ family: IPFamily, _ bytes: [UInt8]) {
        guard let address = IPAddress(bytes: bytes.prefix(family.bits / 8)), address.family == family else {
            return nil
        }
        switch bytes.count - family.bits / 8 {
        case 0: self.init(address)
        case 16 where family == .v6:
            self.init(address, linkLocal: IPAddress(bytes: bytes.dropFirst(16)).flatMap { $0.isLinkLocal ? $0 : nil })
        default: return nil
        }
    }

    var bytes: [UInt8] { address.bytes + (linkLocal?.bytes ?? []) }

    /// Whether it can be a host's address (RFC 4271 §6.3).
    var isHost: Bool {
        switch address {
        case .v4(let number): number >> 24 != 0 && number >> 24 != 127 && number >> 28 < 14
        case .v6(let number): number > 1 && number >> 120 != 0xFF
        }
    }
}
