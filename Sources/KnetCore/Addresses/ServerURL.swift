/// An API server's address: `https://host[:port][/path]`, or `http` where that is said.
public struct ServerURL: Hashable, Sendable, LosslessStringConvertible {
    public static let title = "https://host:port"

    public let isEncrypted: Bool
    /// A name or an address, IPv6 without brackets.
    public private(set) var host: String
    public let port: Int
    /// Empty, or with a slash at its front and none at its end.
    public let path: String

    public init?(_ text: String) {
        guard let scheme = ["https://", "http://"].first(where: text.hasPrefix) else { return nil }
        isEncrypted = scheme == "https://"
        let rest = text.dropFirst(scheme.count)
        let authority = rest.prefix { $0 != "/" }
        var path = String(rest.dropFirst(authority.count))
        while path.hasSuffix("/") { path.removeLast() }
        self.path = path
        var portText: Substring? = nil
        if authority.hasPrefix("[") {
            guard let end = authority.firstIndex(of: "]") else { return nil }
            host = String(authority[authority.index(after: authority.startIndex)..<end])
            let tail = authority[authority.index(after: end)...]
            if !tail.isEmpty {
                guard tail.hasPrefix(":") else { return nil }
                portText = tail.dropFirst()
            }
        } else {
            let parts = authority.split(separator: ":", omittingEmptySubsequences: false)
            guard parts.count <= 2 else { return nil }
            host = String(parts[0])
            portText = parts.count == 2 ? parts[1] : nil
        }
        guard !host.isEmpty, !host.contains(where: { " ?#@\\".contains($0) }),
            !path.contains(where: { " ?#".contains($0) })
        else { return nil }
        if let portText {
            guard let number = Int(portText), (1...65535).contains(number) else { return nil }
            port = number
        } else {
            port = isEncrypted ? 443 : 80
        }
    }

    /// The same with another name for the host.
    public func named(_ name: String) -> ServerURL {
        var url = self
        url.host = name
        return url
    }

    public var description: String {
        "\(isEncrypted ? "https" : "http")://\(host.contains(":") ? "[\(host)]" : host):\(port)\(path)"
    }
}
