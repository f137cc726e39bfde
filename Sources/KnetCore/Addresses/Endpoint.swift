/// An address with a port: `127.0.0.1:9469`, `[::1]:9469`.
public struct Endpoint: Hashable, Sendable, LosslessStringConvertible {
    public let address: IPAddress
    /// 1…65535.
    public let port: Int

    public init(address: IPAddress, port: Int) {
        self.address = address
        self.port = port
    }

    public init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
            (1...65535).contains(port), String(port) == text[text.index(after: colon)...]
        else { return nil }
        var host = text[..<colon]
        let bracketed = host.hasPrefix("[") && host.hasSuffix("]")
        if bracketed { host = host.dropFirst().dropLast() }
        guard let address = IPAddress(host), (address.family == .v6) == bracketed else { return nil }
        self.address = address
        self.port = port
    }

    public var description: String { address.family == .v6 ? "[\(address)]:\(port)" : "\(address):\(port)" }
}

extension Endpoint: TextCodable {
    public static let title = "address:port"
}

/// The kernel's rules for the name of a network interface (`dev_valid_name` in net/core/dev.c).
public enum InterfaceName {
    /// Bytes in a name without its terminating zero: IFNAMSIZ − 1.
    public static let maximumLength = 15

    public static func isValid(_ name: String) -> Bool {
        (1...maximumLength).contains(name.utf8.count) && name != "." && name != ".."
            && !name.unicodeScalars.contains { $0 == "/" || $0 == ":" || $0.properties.isWhitespace }
    }
}
