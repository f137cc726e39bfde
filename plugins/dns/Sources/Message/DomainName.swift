import KnetCore

/// A domain name in the form of a message (RFC 1035 §3.1): labels with their lengths, ended by an empty one. Letters of ASCII are
/// small, but in what a server wrote.
struct DomainName: Hashable, Sendable {
    /// At most 255 bytes.
    let wire: [UInt8]

    static let root = DomainName(wire: [0])

    private init(wire: [UInt8]) { self.wire = wire }

    /// From labels as they are, the first of them the name's own.
    /// - Returns: `nil` where a label is empty or longer than 63 bytes, or the name longer than 255.
    init?(labels: some Sequence<Substring>, in parent: DomainName = .root) {
        var wire: [UInt8] = []
        for label in labels {
            guard (1...63).contains(label.utf8.count) else { return nil }
            wire.append(UInt8(label.utf8.count))
            wire += label.utf8.map(\.lowercased)
        }
        wire += parent.wire
        guard wire.count <= 255 else { return nil }
        self.wire = wire
    }

    /// From text with dots, with or without one at the end.
    init?(_ text: some StringProtocol) {
        let labels = Substring(text).split(separator: ".", omittingEmptySubsequences: false)
        self.init(labels: labels.last?.isEmpty == true ? labels.dropLast() : labels)
    }

    /// From bytes of a message that were checked.
    init(checked bytes: UnsafeRawBufferPointer) { wire = Array(bytes) }

    /// From labels that were checked, with their letters as they are.
    init(asWritten wire: [UInt8]) { self.wire = wire }

    /// The name of one label below this one.
    func child(_ label: some StringProtocol) -> DomainName? { DomainName(labels: [Substring(label)], in: self) }

    /// Without its first label; the root's is itself.
    var parent: DomainName { wire[0] == 0 ? self : DomainName(wire: Array(wire[(1 + Int(wire[0]))...])) }

    /// The name under which an address' names are asked for (RFC 1035 §3.5, RFC 3596 §2.5).
    init(reverse address: IPAddress) {
        let labels: [Substring]
        switch address {
        case .v4: labels = address.bytes.reversed().map { Substring("\($0)") } + ["in-addr", "arpa"]
        case .v6:
            labels =
                address.bytes.reversed().flatMap { [$0 & 15, $0 >> 4] }.map { Substring(String($0, radix: 16)) }
                + ["ip6", "arpa"]
        }
        guard let name = DomainName(labels: labels) else { preconditionFailure("a reverse name is never too long") }
        self = name
    }
}

extension DomainName: CustomStringConvertible {
    /// With dots, one at the end. Bytes beyond letters, digits, `-` and `_` as in RFC 1035 §5.1.
    var description: String {
        var (text, rest) = ("", wire[...])
        while let length = rest.popFirst(), length > 0 {
            for byte in rest.prefix(Int(length)) {
                switch byte {
                case UInt8(ascii: "."), UInt8(ascii: "\\"): text += "\\" + String(UnicodeScalar(byte))
                case 0x21...0x7E: text.unicodeScalars.append(UnicodeScalar(byte))
                default: text += "\\" + String("00\(byte)".suffix(3))
                }
            }
            text += "."
            rest = rest.dropFirst(Int(length))
        }
        return text.isEmpty ? "." : text
    }
}

extension UInt8 {
    /// The small letter of a capital one of ASCII.
    var lowercased: UInt8 { (0x41...0x5A).contains(self) ? self | 0x20 : self }
}
