import Glibc
import KnetCore
import KnetLinux

/// The least that is needed to read a page in a node's own namespace.
public enum HTTP {
    /// - Returns: status line, headers and body.
    public static func get(_ host: String, port: UInt16, _ path: String) throws -> String {
        guard let address = IPAddress(host) else { throw Prober.Wrong(description: "\(host) is not an address") }
        let descriptor = try Sockets.open(address.family, SOCK_STREAM, milliseconds: 5000)
        try Sockets.connect(descriptor.number, to: address, port: port)
        try Sockets.sendAll(
            descriptor.number, Array("GET \(path) HTTP/1.1\r\nHost: \(host)\r\nConnection: close\r\n\r\n".utf8))
        return String(decoding: try Sockets.receiveAll(descriptor.number), as: UTF8.self)
    }
}
