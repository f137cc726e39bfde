import KnetCore

/// What routes are about: an AFI and a SAFI (RFC 4760 §6). Others than unicast are known by their numbers only.
struct AddressFamily: Hashable, Sendable {
    let afi: UInt16
    let safi: UInt8

    init(afi: UInt16, safi: UInt8) {
        self.afi = afi
        self.safi = safi
    }

    /// Unicast of `family`.
    init(_ family: IPFamily) { self.init(afi: family == .v4 ? 1 : 2, safi: 1) }

    /// `nil` for what is not unicast of IPv4 or IPv6.
    var unicast: IPFamily? { IPFamily.allCases.first { AddressFamily($0) == self } }
}
