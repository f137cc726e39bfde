/// What a speaker says of itself in its OPEN (RFC 5492).
enum Capability: Hashable, Sendable {
    /// RFC 4760 §8.
    case multiprotocol(AddressFamily)
    /// RFC 2918 §2.
    case routeRefresh
    /// RFC 8950 §4: routes of a family with next hops of another AFI. Read, not used.
    case extendedNextHop([ExtendedNextHop])
    /// RFC 4724 §3.
    case gracefulRestart(GracefulRestart)
    /// RFC 6793 §3.
    case fourOctetAS(UInt32)
    /// What is not known here, or not well-formed.
    case other(code: UInt8, value: [UInt8])

    struct ExtendedNextHop: Hashable, Sendable {
        let family: AddressFamily
        let nextHopAFI: UInt16
    }

    /// - Parameter value: of the capability with this code.
    init(code: UInt8, value: [UInt8]) {
        self = Self.known(code, ByteReader(value)) ?? .other(code: code, value: value)
    }

    private static func known(_ code: UInt8, _ reader: ByteReader) -> Capability? {
        var reader = reader
        switch code {
        case 1 where reader.count == 4:
            guard let afi = reader.short(), reader.byte() != nil, let safi = reader.byte() else { return nil }
            return .multiprotocol(AddressFamily(afi: afi, safi: safi))
        case 2 where reader.isEmpty: return .routeRefresh
        case 5 where reader.count % 6 == 0:
            var hops: [ExtendedNextHop] = []
            // The SAFI has two bytes here.
            while let afi = reader.short(), let safi = reader.short(), let nextHop = reader.short() {
                guard let safi = UInt8(exactly: safi) else { return nil }
                hops.append(ExtendedNextHop(family: AddressFamily(afi: afi, safi: safi), nextHopAFI: nextHop))
            }
            return .extendedNextHop(hops)
        case 64: return GracefulRestart(reader).map { .gracefulRestart($0) }
        case 65 where reader.count == 4: return reader.long().map { .fourOctetAS($0) }
        default: return nil
        }
    }

    /// Code, length and value. A value longer than 255 bytes cannot be written and is not.
    var bytes: [UInt8] {
        let (code, value) = contents
        return value.count <= 255 ? [code, UInt8(value.count)] + value : []
    }

    private var contents: (code: UInt8, value: [UInt8]) {
        var value: [UInt8] = []
        switch self {
        case .multiprotocol(let family):
            value.append(number: family.afi)
            return (1, value + [0, family.safi])
        case .routeRefresh: return (2, [])
        case .extendedNextHop(let hops):
            for hop in hops {
                value.append(number: hop.family.afi)
                value.append(number: UInt16(hop.family.safi))
                value.append(number: hop.nextHopAFI)
            }
            return (5, value)
        case .gracefulRestart(let restart): return (64, restart.bytes)
        case .fourOctetAS(let number):
            value.append(number: number)
            return (65, value)
        case .other(let code, let value): return (code, value)
        }
    }
}

/// The capability of graceful restart (RFC 4724 §3, RFC 8538 §2).
struct GracefulRestart: Hashable, Sendable {
    /// The bit R: the speaker has restarted and waits for routes.
    var isRestarting = false
    /// The bit N: notifications but a hard reset end a session gracefully.
    var coversNotifications = false
    /// Seconds in which the speaker will be back: 0…4095.
    var time: UInt16 = 0
    /// Families whose routes are to be kept meanwhile.
    var families: [Family] = []

    struct Family: Hashable, Sendable {
        let family: AddressFamily
        /// Whether packets were forwarded during the last restart.
        let keptForwarding: Bool
    }
}

extension GracefulRestart {
    /// From the capability's value.
    fileprivate init?(_ value: ByteReader) {
        var value = value
        guard let head = value.short(), value.count % 4 == 0 else { return nil }
        isRestarting = head & 0x8000 != 0
        coversNotifications = head & 0x4000 != 0
        time = head & 0xFFF
        while let afi = value.short(), let safi = value.byte(), let flags = value.byte() {
            families.append(Family(family: AddressFamily(afi: afi, safi: safi), keptForwarding: flags & 0x80 != 0))
        }
    }

    fileprivate var bytes: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(number: (isRestarting ? 0x8000 : 0) | (coversNotifications ? 0x4000 : 0) | min(time, 0xFFF))
        for entry in families {
            bytes.append(number: entry.family.afi)
            bytes += [entry.family.safi, entry.keptForwarding ? 0x80 : 0]
        }
        return bytes
    }
}
