import KnetCore
import KnetLinux

/// Between facts and the bytes of elements: addresses and ports in network order, slots as the processor has numbers, each part
/// padded to four bytes.
enum ElementForm {
    static func element(_ fact: Fact, of id: FrontendID) -> (set: String, SetElement) {
        let set = "\(fact.role)_\(id.suffix)"
        let own = id.address.bytes + port(id.port)
        switch fact {
        case .member: return (set, SetElement(key: own))
        case .slot(_, let slot, let backend):
            let number = withUnsafeBytes(of: slot) { Array($0) }
            return (set, SetElement(key: own + number, value: backend.address.bytes + port(backend.port)))
        case .source(let block): return (set, SetElement(key: block.base.bytes + own, lastKey: block.last.bytes + own))
        }
    }

    /// - Returns: `nil` for what cannot be ours.
    static func fact(_ element: SetElement, of set: SetName) -> (FrontendID, Fact)? {
        var reader = ElementReader(bytes: element.key, isIPv6: set.isIPv6)
        switch set.role {
        case .sources:
            guard let first = reader.address(), let id = reader.frontend(set.transport), let lastKey = element.lastKey,
                let last = ElementReader.address(lastKey, isIPv6: set.isIPv6)
            else { return nil }
            let prefix = (first.number ^ last.number).leadingZeroBitCount - (128 - first.family.bits)
            return (id, .source(CIDR(containing: first, prefixLength: prefix)))
        case .endpoints(let view):
            guard let id = reader.frontend(set.transport), let slot = reader.number(),
                let backend = backend(element.value, isIPv6: set.isIPv6)
            else { return nil }
            return (id, .slot(view, slot, backend))
        default:
            return reader.frontend(set.transport).map { ($0, .member(set.role)) }
        }
    }

    /// An element of the map that the kernel fills.
    static func affinity(_ element: SetElement, of set: SetName) -> (FrontendID, Backend)? {
        var reader = ElementReader(bytes: element.key, isIPv6: set.isIPv6)
        guard reader.address() != nil, let id = reader.frontend(set.transport),
            let backend = backend(element.value, isIPv6: set.isIPv6)
        else { return nil }
        return (id, backend)
    }

    private static let clusterIPs = "cluster_ips"
    private static let hairpin = "hairpin"

    /// Of an entry that is one element.
    static func element(_ entry: ServiceEntry) -> (set: String, SetElement) {
        switch entry {
        case .clusterIP(let address): ("\(clusterIPs)\(address.family.rawValue)", SetElement(key: address.bytes))
        case .hairpin(let address):
            ("\(hairpin)\(address.family.rawValue)", SetElement(key: address.bytes + address.bytes))
        case .rules, .frontend: preconditionFailure("\(entry) is not one element")
        }
    }

    static func entry(_ element: SetElement, of set: String) -> ServiceEntry? {
        let isIPv6 = set.hasSuffix("6")
        guard let address = ElementReader.address(element.key, isIPv6: isIPv6) else { return nil }
        if set.hasPrefix(clusterIPs) { return .clusterIP(address) }
        return set.hasPrefix(hairpin) && element.key == address.bytes + address.bytes ? .hairpin(address) : nil
    }

    private static func port(_ number: UInt16) -> [UInt8] { [UInt8(number >> 8), UInt8(number & 0xFF), 0, 0] }

    private static func backend(_ value: [UInt8]?, isIPv6: Bool) -> Backend? {
        guard let value else { return nil }
        var reader = ElementReader(bytes: value, isIPv6: isIPv6)
        guard let address = reader.address(), let port = reader.port() else { return nil }
        return Backend(address: address, port: port)
    }
}

/// Takes the parts of a concatenation one by one.
private struct ElementReader {
    let bytes: [UInt8]
    let isIPv6: Bool
    private var position = 0

    init(bytes: [UInt8], isIPv6: Bool) {
        self.bytes = bytes
        self.isIPv6 = isIPv6
    }

    static func address(_ bytes: [UInt8], isIPv6: Bool) -> IPAddress? {
        var reader = ElementReader(bytes: bytes, isIPv6: isIPv6)
        return reader.address()
    }

    mutating func address() -> IPAddress? { take(isIPv6 ? 16 : 4).flatMap { IPAddress(bytes: $0) } }

    mutating func port() -> UInt16? { take(4).map { UInt16($0[$0.startIndex]) << 8 | UInt16($0[$0.startIndex + 1]) } }

    mutating func number() -> UInt32? {
        take(4)?.withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) }
    }

    mutating func frontend(_ transport: Transport) -> FrontendID? {
        guard let address = address(), let port = port() else { return nil }
        return FrontendID(transport: transport, address: address, port: port)
    }

    private mutating func take(_ count: Int) -> ArraySlice<UInt8>? {
        guard position + count <= bytes.count else { return nil }
        defer { position += count }
        return bytes[position..<position + count]
    }
}
