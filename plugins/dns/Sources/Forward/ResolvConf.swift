import KnetCore

/// What a node's resolver is told (resolv.conf(5)).
struct ResolvConf: Equatable, Sendable {
    var servers: [UpstreamAddress] = []
    /// Domains that the kubelet hands on to pods.
    var search: [DomainName] = []
    /// Servers that cannot be used, as they are written.
    var unusable: [String] = []

    init() {}

    init(_ text: some StringProtocol) {
        for line in text.split(whereSeparator: \.isNewline) {
            let words = line.split(whereSeparator: \.isWhitespace)
            switch words.first {
            case "nameserver"?:
                guard words.count > 1 else { continue }
                if let server = UpstreamAddress(words[1]) {
                    if !servers.contains(server) { servers.append(server) }
                } else {
                    unusable.append(String(words[1]))
                }
            // Of several lines the last one counts.
            case "search"?, "domain"?: search = words.dropFirst().compactMap { DomainName($0) }.filter { $0 != .root }
            default: break
            }
        }
    }

    /// Where the node's real servers are written: with systemd-resolved, `/etc/resolv.conf` names but its stub.
    static let paths = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"]
}
