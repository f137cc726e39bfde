import CKnetBPF
import KnetCore

/// Keys and values of the maps, as bytes: the structs of knet.h.
enum MapForm {
    private static let mapped: [UInt8] = [UInt8](repeating: 0, count: 10) + [0xFF, 0xFF]

    static func address(_ address: IPAddress) -> [UInt8] {
        address.family == .v4 ? mapped + address.bytes : address.bytes
    }

    static func address(_ bytes: some Collection<UInt8>) -> IPAddress? {
        bytes.starts(with: mapped) ? IPAddress(bytes: bytes.dropFirst(mapped.count)) : IPAddress(bytes: bytes)
    }

    static func range(_ range: CIDR) -> [UInt8] {
        let bits = UInt32(range.prefixLength + (range.family == .v4 ? 96 : 0))
        return withUnsafeBytes(of: bits) { Array($0) } + address(range.base)
    }

    static func range(_ bytes: [UInt8]) -> CIDR? {
        let bits = bytes.withUnsafeBytes { Int($0.loadUnaligned(as: UInt32.self)) }
        guard let base = address(bytes[4...]) else { return nil }
        let length = base.family == .v4 ? bits - 96 : bits
        return (0...base.family.bits).contains(length) ? CIDR(containing: base, prefixLength: length) : nil
    }

    static func endpoint(link: Int32, podMAC: MACAddress, hostMAC: MACAddress) -> [UInt8] {
        withUnsafeBytes(of: UInt32(link)) { Array($0) } + podMAC.bytes + hostMAC.bytes
    }

    static func endpoint(_ bytes: [UInt8]) -> (link: Int32, podMAC: MACAddress, hostMAC: MACAddress)? {
        guard bytes.count == MemoryLayout<knet_endpoint>.size, let pod = MACAddress(bytes: bytes[4..<10]),
            let host = MACAddress(bytes: bytes[10...])
        else { return nil }
        return (bytes.withUnsafeBytes { $0.loadUnaligned(as: Int32.self) }, pod, host)
    }
}
