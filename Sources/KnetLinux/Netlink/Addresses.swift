import CMnl
import Glibc
public import KnetCore

/// An address on an interface.
public struct LinkAddress: Hashable, Sendable {
    public let index: Int32
    public let address: IPAddress
    public let prefixLength: Int
    /// Whether packets can be sent from it now: neither tentative nor found to be a duplicate.
    public let isUsable: Bool
    /// Whether it is one of the link's lasting addresses: no duplicate, no privacy address, not about to go.
    public let isLasting: Bool
    /// `RT_SCOPE_*`: 0 is global, 253 the link.
    public let scope: UInt8

    public var subnet: CIDR { CIDR(containing: address, prefixLength: prefixLength) }
}

/// By which an address or a neighbour is known.
struct AddressOnLink: Hashable {
    let index: Int32
    let address: IPAddress
}

extension NetlinkSocket {
    public func addresses() throws -> [LinkAddress] {
        try linkTable(by: { AddressOnLink(index: $0.index, address: $0.address) }) {
            var message = NetlinkMessage("list addresses", type: RTM_GETADDR)
            message.put(ifaddrmsg())
            return message
        } item: {
            LinkAddress($0)
        }
    }
}

extension LinkAddress {
    init?(_ reply: NetlinkReply) {
        guard let fixed = reply.fixed(ifaddrmsg.self) else { return nil }
        let attributes = reply.attributes(after: ifaddrmsg.self)
        // IFA_LOCAL is the own address of a point-to-point link, where IFA_ADDRESS is the other end's.
        guard let address = (attributes[IFA_LOCAL] ?? attributes[IFA_ADDRESS])?.address else { return nil }
        let flags = attributes[IFA_FLAGS]?.integer(UInt32.self) ?? UInt32(fixed.ifa_flags)
        self.init(
            index: Int32(fixed.ifa_index), address: address, prefixLength: Int(fixed.ifa_prefixlen),
            isUsable: flags & UInt32(IFA_F_TENTATIVE | IFA_F_DADFAILED) == 0,
            isLasting: flags & UInt32(IFA_F_DADFAILED | IFA_F_DEPRECATED)
                == 0 && (address.family == .v4 || flags & UInt32(IFA_F_TEMPORARY) == 0), scope: fixed.ifa_scope)
    }
}

extension NetlinkMessage {
    /// Puts an address on an interface, usable at once: no duplicate address detection.
    public static func addAddress(_ address: IPAddress, prefixLength: Int, index: Int32) -> NetlinkMessage {
        var message = addressMessage(
            "add address \(address)", RTM_NEWADDR, address, prefixLength, index, NLM_F_CREATE | NLM_F_REPLACE)
        message.put(IFA_FLAGS, UInt32(IFA_F_NODAD | IFA_F_PERMANENT))
        return message
    }

    public static func deleteAddress(_ address: IPAddress, prefixLength: Int, index: Int32) -> NetlinkMessage {
        addressMessage("delete address \(address)", RTM_DELADDR, address, prefixLength, index, 0)
    }

    private static func addressMessage(
        _ purpose: String, _ type: Int, _ address: IPAddress, _ prefixLength: Int, _ index: Int32, _ flags: Int32
    ) -> NetlinkMessage {
        var message = NetlinkMessage(purpose, type: type, flags: flags)
        message.put(
            ifaddrmsg(
                ifa_family: address.family.socketFamily, ifa_prefixlen: UInt8(prefixLength), ifa_flags: 0,
                ifa_scope: UInt8(RT_SCOPE_UNIVERSE.rawValue), ifa_index: UInt32(index)))
        message.put(IFA_LOCAL, bytes: address.bytes)
        message.put(IFA_ADDRESS, bytes: address.bytes)
        return message
    }
}
