import Glibc
import KnetCore
import KnetLinux
import TestSupport
import Testing

/// Sockets are ended by their cookies and peers, and no others.
@Suite(.enabled(if: Root.isAvailable)) struct SocketDiagnosisTests {
    @Test(arguments: [SOCK_STREAM, SOCK_DGRAM]) func onlyTheSocketThatIsMeantEnds(type: __socket_type) throws {
        let namespace = try NetworkNamespace.anonymous()
        let transport: UInt8 = type == SOCK_STREAM ? 6 : 17
        try namespace.run {
            let netlink = try NetlinkSocket()
            try netlink.request(.changeLink(index: NetlinkSocket.index(of: "lo"), up: true))
            let server = try Self.socket(type)
            try Self.with(port: 7007) { address, length in
                _ = try syscall("bind") { bind(server.number, address, length) }
            }
            if type == SOCK_STREAM { try syscall("listen") { listen(server.number, 8) } }
            let clients = try (0..<3).map { _ in SharedDescriptor(try Self.socket(type)) }
            for client in clients {
                try Self.with(port: 7007) { address, length in
                    _ = try syscall("connect") { connect(client.number, address, length) }
                }
            }
            let peer = Endpoint(address: .v4(0x7F00_0001), port: 7007)
            let meant = try Self.cookie(clients[1].number)
            #expect(
                try SocketDiagnosis.end(transport, to: [Endpoint(address: peer.address, port: 7)], cookies: [meant])
                    == 0)
            #expect(try SocketDiagnosis.end(transport, to: [peer], cookies: [meant]) == 1)
            let errors = clients.map { client -> Int32 in
                var byte: UInt8 = 0
                return recv(client.number, &byte, 1, Int32(MSG_DONTWAIT)) < 0 ? errno : 0
            }
            #expect(errors == [EAGAIN, ECONNABORTED, EAGAIN])
        }
    }

    private static func socket(_ type: __socket_type) throws -> Descriptor {
        Descriptor(owning: try syscall("socket") { Glibc.socket(AF_INET, Int32(type.rawValue), 0) })
    }

    private static func with(port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) throws -> Void) throws {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        try withUnsafePointer(to: &address) {
            try $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                try body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }

    private static func cookie(_ socket: Int32) throws -> UInt64 {
        var cookie: UInt64 = 0
        var length = socklen_t(MemoryLayout<UInt64>.size)
        // SO_COOKIE, <asm-generic/socket.h>.
        try syscall("getsockopt SO_COOKIE") { getsockopt(socket, SOL_SOCKET, 57, &cookie, &length) }
        return cookie
    }
}
