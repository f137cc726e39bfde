import KnetCore

// Prefixes in a message (RFC 4271 §4.3, RFC 4760 §5): the length in bits, then as many bytes as hold them.

extension ByteReader {
    /// Reads prefixes up to the end. Bits behind a prefix' length are of no meaning.
    /// - Returns: `false` where a length is too great or the last prefix is cut off (RFC 7606 §5.3).
    mutating func prefixes(_ family: IPFamily, into prefixes: inout [CIDR]) -> Bool {
        prefixes.reserveCapacity(prefixes.count + count / 4)
        while let length = byte().map(Int.init) {
            guard length <= family.bits else { return false }
            let size = (length + 7) / 8
            let address: IPAddress? =
                family == .v4 ? number(upper: size).map { .v4($0) } : number(upper: size).map { .v6($0) }
            guard let address else { return false }
            prefixes.append(CIDR(containing: address, prefixLength: length))
        }
        return true
    }
}

extension [UInt8] {
    mutating func append(prefix: CIDR) {
        append(UInt8(prefix.prefixLength))
        let (number, bits) = (prefix.base.number, prefix.family.bits)
        for index in 0..<(prefix.prefixLength + 7) / 8 {
            append(UInt8(truncatingIfNeeded: number >> UInt128(bits - 8 - 8 * index)))
        }
    }
}
