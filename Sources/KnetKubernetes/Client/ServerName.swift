import KnetCore

/// Names and addresses on certificates.
enum ServerName {
    static func isAddress(_ host: String) -> Bool { IPAddress(host) != nil }

    /// - Parameter bytes: 4 or 16, as X.509 has them.
    static func address(_ bytes: [UInt8]) -> String? { IPAddress(bytes: bytes)?.description }
}
