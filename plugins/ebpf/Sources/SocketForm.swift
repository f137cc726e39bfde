import CKnetBPF
import KnetCore
import ServiceProxyPlugin

/// Keys and values of the maps of sockets, as bytes: the structs of knet.h.
enum SocketForm {
    static func client(_ cookie: UInt64) -> [UInt8] { withUnsafeBytes(of: cookie) { Array($0) } }

    static func client(_ bytes: ArraySlice<UInt8>) -> UInt64 {
        bytes.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
    }

    static func frontend(_ id: PlainFrontend.ID) -> [UInt8] {
        MapForm.address(id.address) + port(id.port) + [id.transport, 0]
    }

    static func frontend(_ bytes: ArraySlice<UInt8>) -> PlainFrontend.ID? {
        guard bytes.count == MemoryLayout<knet_frontend>.size, let address = MapForm.address(bytes.prefix(16)) else {
            return nil
        }
        let rest = Array(bytes.dropFirst(16))
        return PlainFrontend.ID(transport: rest[2], address: address, port: port(rest[...]))
    }

    static func number(_ number: UInt32) -> [UInt8] { withUnsafeBytes(of: number) { Array($0) } }

    static func number(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        bytes.withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) }
    }

    static func slot(_ slot: PlainFrontend.Slot, of id: PlainFrontend.ID) -> [UInt8] {
        frontend(id) + number(slot.number)
    }

    static func backend(_ slot: PlainFrontend.Slot) -> [UInt8] {
        MapForm.address(slot.address) + port(slot.port) + [0, 0]
    }

    static func member(_ slot: PlainFrontend.Slot, of id: PlainFrontend.ID) -> [UInt8] { frontend(id) + backend(slot) }

    static func memberWithoutSlot(_ key: [UInt8]) -> (id: PlainFrontend.ID, slot: PlainFrontend.Slot)? {
        let width = MemoryLayout<knet_frontend>.size
        return slot(key.prefix(width) + number(.max), key.dropFirst(width))
    }

    static func slot(_ key: ArraySlice<UInt8>, _ value: ArraySlice<UInt8>) -> (
        id: PlainFrontend.ID, slot: PlainFrontend.Slot
    )? {
        let width = MemoryLayout<knet_frontend>.size
        guard let id = frontend(key.prefix(width)), let address = MapForm.address(value.prefix(16)) else { return nil }
        return (
            id, .init(number: number(key.dropFirst(width)), address: address, port: port(value.dropFirst(16)))
        )
    }

    /// A key of what sockets were told.
    static func peer(_ key: ArraySlice<UInt8>) -> (socket: UInt64, address: IPAddress, port: UInt16)? {
        guard key.count == MemoryLayout<knet_peer>.size, let address = MapForm.address(key.dropFirst(8).prefix(16))
        else { return nil }
        return (client(key), address, port(key.dropFirst(24)))
    }

    /// Its value.
    static func told(_ value: ArraySlice<UInt8>) -> (clients: UInt64, address: IPAddress, port: UInt16)? {
        guard value.count == MemoryLayout<knet_told>.size, let address = MapForm.address(value.dropFirst(8).prefix(16))
        else { return nil }
        return (client(value), address, port(value.dropFirst(24)))
    }

    private static func port(_ port: UInt16) -> [UInt8] { [UInt8(port >> 8), UInt8(port & 0xFF)] }

    private static func port(_ bytes: ArraySlice<UInt8>) -> UInt16 {
        UInt16(bytes[bytes.startIndex]) << 8 | UInt16(bytes[bytes.startIndex + 1])
    }
}
