import CMnl
import Glibc
public import KnetCore

/// Sockets of the calling thread's network namespace (sock_diag(7)).
public enum SocketDiagnosis {
    /// Ends sockets that are connected to one of the peers, as `ss --kill` does: who waits at one is told `ECONNABORTED`, and a
    /// stream's other end gets a reset. Needs Linux with `CONFIG_INET_DIAG_DESTROY`.
    /// - Parameters:
    ///   - transport: IANA's number, of TCP or UDP.
    ///   - cookies: of the sockets that are meant (`SO_COOKIE`).
    /// - Returns: how many were ended.
    @discardableResult
    public static func end(_ transport: UInt8, to peers: Set<Endpoint>, cookies: Set<UInt64>) throws -> Int {
        let socket = try NetlinkSocket(bus: NETLINK_SOCK_DIAG)
        var found: [UInt64: inet_diag_msg] = [:]
        for family in [UInt8(AF_INET), UInt8(AF_INET6)] {
            try socket.dump(
                { .sockets(transport, family, nil) },
                restart: { found = found.filter { $0.value.idiag_family != family } }
            ) { reply in
                guard let message = reply.fixed(inet_diag_msg.self), cookies.contains(message.id.cookie),
                    let peer = message.id.peer(message.idiag_family), peers.contains(peer)
                else { return }
                found[message.id.cookie] = message
            }
        }
        var batch = NetlinkBatch()
        for message in found.values { batch.append(.sockets(transport, message.idiag_family, message.id)) }
        return try socket.send(batch).count { $0 == nil }
    }
}

extension NetlinkMessage {
    /// - Parameter ended: the socket to be ended; `nil` asks for all.
    fileprivate static func sockets(_ transport: UInt8, _ family: UInt8, _ ended: inet_diag_sockid?) -> NetlinkMessage {
        var message =
            ended == nil
            ? NetlinkMessage("list sockets", type: Int(SOCK_DIAG_BY_FAMILY))
            : NetlinkMessage("end a socket", type: Int(SOCK_DESTROY))
        var request = inet_diag_req_v2()
        request.sdiag_family = family
        request.sdiag_protocol = transport
        request.idiag_states = .max
        if let ended { request.id = ended }
        message.put(request)
        return message
    }
}

extension inet_diag_sockid {
    fileprivate var cookie: UInt64 { UInt64(idiag_cookie.1) << 32 | UInt64(idiag_cookie.0) }

    /// The other end; a mapped address is the IPv4 address that it stands for.
    fileprivate func peer(_ family: UInt8) -> Endpoint? {
        let bytes = withUnsafeBytes(of: idiag_dst) { Array($0) }
        let isMapped = bytes.starts(with: [UInt8](repeating: 0, count: 10) + [0xFF, 0xFF])
        let address: IPAddress? =
            family == UInt8(AF_INET)
            ? IPAddress(bytes: bytes.prefix(4))
            : isMapped ? IPAddress(bytes: bytes.suffix(4)) : IPAddress(bytes: bytes)
        return address.map { Endpoint(address: $0, port: Int(UInt16(bigEndian: idiag_dport))) }
    }
}
