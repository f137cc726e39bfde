import CMnl
import Glibc
public import KnetCore

/// A permanent neighbour: which MAC address an IP address has on a link.
public struct Neighbour: Hashable, Sendable {
    public let index: Int32
    public let address: IPAddress
    public let mac: MACAddress

    public init(index: Int32, address: IPAddress, mac: MACAddress) {
        self.index = index
        self.address = address
        self.mac = mac
    }
}

/// An entry of a VXLAN device's forwarding database: behind which outer address a MAC address is.
public struct FDBEntry: Hashable, Sendable {
    public let index: Int32
    public let mac: MACAddress
    public let destination: IPAddress

    public init(index: Int32, mac: MACAddress, destination: IPAddress) {
        self.index = index
        self.mac = mac
        self.destination = destination
    }
}

extension NetlinkSocket {
    /// The permanent neighbours of both families.
    public func permanentNeighbours() throws -> [Neighbour] {
        try linkTable(by: { AddressOnLink(index: $0.index, address: $0.address) }) {
            NetlinkMessage.neighbourDump("list neighbours", family: 0)
        } item: { reply in
            guard let fixed = reply.fixed(ndmsg.self), Int32(fixed.ndm_state) & NUD_PERMANENT != 0 else { return nil }
            let attributes = reply.attributes(after: ndmsg.self)
            guard let address = attributes[NDA_DST]?.address, let mac = attributes[NDA_LLADDR]?.mac else { return nil }
            return Neighbour(index: fixed.ndm_ifindex, address: address, mac: mac)
        }
    }

    /// The FDB entries with a destination, of all VXLAN devices.
    public func fdb() throws -> [FDBEntry] {
        try linkTable(by: \.self) {
            NetlinkMessage.neighbourDump("list FDB", family: UInt8(AF_BRIDGE))
        } item: { reply in
            guard let fixed = reply.fixed(ndmsg.self), fixed.ndm_flags & UInt8(NTF_SELF) != 0 else { return nil }
            let attributes = reply.attributes(after: ndmsg.self)
            guard let destination = attributes[NDA_DST]?.address, let mac = attributes[NDA_LLADDR]?.mac else {
                return nil
            }
            return FDBEntry(index: fixed.ndm_ifindex, mac: mac, destination: destination)
        }
    }
}

extension NetlinkMessage {
    fileprivate static func neighbourDump(_ purpose: String, family: UInt8) -> NetlinkMessage {
        var message = NetlinkMessage(purpose, type: RTM_GETNEIGH)
        var fixed = ndmsg()
        fixed.ndm_family = family
        message.put(fixed)
        return message
    }

    public static func replaceNeighbour(_ neighbour: Neighbour) -> NetlinkMessage {
        var message = neighbourMessage(
            "neighbour \(neighbour.address)", RTM_NEWNEIGH, neighbour, NLM_F_CREATE | NLM_F_REPLACE)
        message.put(NDA_LLADDR, bytes: neighbour.mac.bytes)
        message.put(NDA_PROTOCOL, Route.knetdOrigin)
        return message
    }

    public static func deleteNeighbour(_ neighbour: Neighbour) -> NetlinkMessage {
        neighbourMessage("delete neighbour \(neighbour.address)", RTM_DELNEIGH, neighbour, 0)
    }

    private static func neighbourMessage(
        _ purpose: String, _ type: Int, _ neighbour: Neighbour, _ flags: Int32
    ) -> NetlinkMessage {
        var message = NetlinkMessage(purpose, type: type, flags: flags)
        var fixed = ndmsg()
        fixed.ndm_family = neighbour.address.family.socketFamily
        fixed.ndm_ifindex = neighbour.index
        fixed.ndm_state = UInt16(NUD_PERMANENT)
        message.put(fixed)
        message.put(NDA_DST, bytes: neighbour.address.bytes)
        return message
    }

    public static func replaceFDB(_ entry: FDBEntry) -> NetlinkMessage {
        fdbMessage("FDB entry \(entry.mac)", RTM_NEWNEIGH, entry, NLM_F_CREATE | NLM_F_REPLACE)
    }

    public static func deleteFDB(_ entry: FDBEntry) -> NetlinkMessage {
        fdbMessage("delete FDB entry \(entry.mac)", RTM_DELNEIGH, entry, 0)
    }

    private static func fdbMessage(_ purpose: String, _ type: Int, _ entry: FDBEntry, _ flags: Int32) -> NetlinkMessage
    {
        var message = NetlinkMessage(purpose, type: type, flags: flags)
        var fixed = ndmsg()
        fixed.ndm_family = UInt8(AF_BRIDGE)
        fixed.ndm_ifindex = entry.index
        fixed.ndm_state = UInt16(NUD_PERMANENT)
        fixed.ndm_flags = UInt8(NTF_SELF)
        message.put(fixed)
        message.put(NDA_LLADDR, bytes: entry.mac.bytes)
        message.put(NDA_DST, bytes: entry.destination.bytes)
        return message
    }
}
