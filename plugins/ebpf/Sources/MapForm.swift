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

    // MARK: Connections

    /// What the programs are told.
    struct Settings {
        var wanted = PathSettings()
        /// Of the endpoints; 0: nobody tells.
        var generation: UInt32 = 0
        /// Older programs, with other maps, may know of connections that these do not.
        var isCatchingUp = false
    }

    static func settings(_ settings: Settings) -> [UInt8] {
        let wanted = settings.wanted
        return [wanted.isPoliced, wanted.isTold, wanted.isBalanced, wanted.isDirect].flatMap(number)
            + IPFamily.allCases.flatMap { wanted.own[$0].map(address) ?? [UInt8](repeating: 0, count: 16) }
            + number(settings.generation) + number(settings.isCatchingUp)
    }

    static func settings(_ bytes: [UInt8]) -> Settings? {
        guard bytes.count == MemoryLayout<knet_settings>.size else { return nil }
        func isSet(_ offset: Int) -> Bool { bytes[offset..<offset + 4].contains { $0 != 0 } }
        var wanted = PathSettings(isPoliced: isSet(0), isTold: isSet(4), isBalanced: isSet(8), isDirect: isSet(12))
        for (index, family) in IPFamily.allCases.enumerated() {
            let own = bytes[16 + 16 * index..<32 + 16 * index]
            if own.contains(where: { $0 != 0 }) { wanted.own[family] = address(own) }
        }
        return Settings(wanted: wanted, generation: read(bytes[48...], UInt32.self), isCatchingUp: isSet(52))
    }

    static func question(_ question: VerdictExchange.Question) -> [UInt8] {
        address(question.source) + address(question.destination)
            + withUnsafeBytes(of: question.port.bigEndian) { Array($0) } + [question.transport, 0]
    }

    /// - Parameters:
    ///   - key: of a verdict.
    ///   - value: that verdict.
    static func question(_ key: [UInt8], _ value: [UInt8]) -> VerdictExchange.Question? {
        guard key.count == MemoryLayout<knet_question>.size, value.count == MemoryLayout<knet_verdict>.size,
            let source = address(key[..<16]), let destination = address(key[16..<32])
        else { return nil }
        let links = value.withUnsafeBytes { $0.loadUnaligned(as: knet_verdict.self).links }
        return VerdictExchange.Question(
            source: source, destination: destination, transport: key[34], port: UInt16(key[32]) << 8 | UInt16(key[33]),
            isLocal: (links.0 != 0, links.1 != 0))
    }

    /// Of a verdict.
    static func answer(_ bytes: [UInt8]) -> UInt32 {
        bytes.withUnsafeBytes { $0.loadUnaligned(as: knet_verdict.self).answer }
    }

    static func verdict(_ answer: knet_answer, _ links: (UInt32, UInt32)) -> [UInt8] {
        number(links.0) + number(links.1) + number(answer.rawValue)
    }

    static func read<Struct: BitwiseCopyable>(_ bytes: ArraySlice<UInt8>, _ type: Struct.Type) -> Struct {
        bytes.withUnsafeBytes { $0.loadUnaligned(as: type) }
    }

    private static func number(_ number: UInt32) -> [UInt8] { withUnsafeBytes(of: number) { Array($0) } }

    private static func number(_ bit: Bool) -> [UInt8] { number(bit ? 1 : 0) }
}
