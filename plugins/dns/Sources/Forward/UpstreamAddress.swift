import KnetCore

/// A server that is asked what this node does not know: `192.0.2.1`, `192.0.2.1:5353`, `[2001:db8::1]:53`, or over TLS
/// `tls://192.0.2.1:853#dns.example` with the name that its certificate must bear, or else the address.
struct UpstreamAddress: Hashable, Sendable, CustomStringConvertible {
    let endpoint: Endpoint
    /// The name that is checked; `nil` without TLS.
    let tlsName: String?

    init?(_ text: some StringProtocol) {
        var rest = Substring(text)
        let isEncrypted = rest.hasPrefix("tls://")
        if isEncrypted { rest = rest.dropFirst(6) }
        let parts = rest.split(separator: "#", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 1 || isEncrypted && !parts[1].isEmpty, let place = parts.first else { return nil }
        let port = isEncrypted ? 853 : 53
        let bare = place.hasPrefix("[") && place.hasSuffix("]") ? place.dropFirst().dropLast() : place
        if let address = IPAddress(bare) {
            endpoint = Endpoint(address: address, port: port)
        } else if let given = Endpoint(String(place)) {
            endpoint = given
        } else {
            return nil
        }
        tlsName = isEncrypted ? parts.count == 2 ? String(parts[1]) : "\(endpoint.address)" : nil
    }

    var description: String { tlsName.map { "tls://\(endpoint)#\($0)" } ?? "\(endpoint)" }
}
