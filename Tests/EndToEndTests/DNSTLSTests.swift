import APIDouble
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux
import KnetPlayground
import TestSupport
import Testing

/// Upstreams over TLS (RFC 7858).
@Suite(.serialized, .enabled(if: Root.isAvailable)) struct DNSTLSTests {
    /// At 127.0.0.2, which the certificate does not bear: the address of the server would do as well as its name.
    private static let port = 8_853

    /// Takes TLS off and hands on to the upstream's TCP.
    private static let proxy = """
        import socket, ssl, sys, threading
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1])
        def copy(a, b):
            try:
                while data := a.recv(65536): b.sendall(data)
            except OSError: pass
            finally:
                for end in (a, b):
                    try: end.shutdown(socket.SHUT_RDWR)
                    except OSError: pass
        def serve(client):
            try: outer = context.wrap_socket(client, server_side=True)
            except OSError: return
            inner = socket.create_connection(("127.0.0.1", int(sys.argv[3])))
            threading.Thread(target=copy, args=(outer, inner), daemon=True).start()
            copy(inner, outer)
        listener = socket.create_server(("127.0.0.2", int(sys.argv[2])))
        while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
        """

    /// With the tests' own authority in the place of those that the machine trusts.
    @Test(arguments: [("localhost", "NOERROR"), ("other.example", "SERVFAIL")])
    func anUpstreamIsAskedOverTLSWhereItsCertificateBearsTheName(name: String, code: String) throws {
        let folder = "\(FileManager.default.temporaryDirectory.path)/tls-\(UInt32.random(in: 0...UInt32.max))"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        for (file, text) in [
            ("authority.pem", TestCertificates.authority), ("proxy.py", Self.proxy),
            ("server.pem", TestCertificates.server + "\n" + TestCertificates.serverKey),
        ] {
            try Data(text.utf8).write(to: URL(fileURLWithPath: "\(folder)/\(file)"))
        }
        let script =
            "mount -t tmpfs trust /etc/ssl/certs && cp \(folder)/authority.pem /etc/ssl/certs/ca-certificates.crt && exec \"$@\""
        try DNSStage.with(
            ["upstreams": [.string("tls://127.0.0.2:\(Self.port)#\(name)")]],
            wrapper: ["unshare", "--mount", "sh", "-c", script, "sh"]
        ) { stage in
            let proxy = try ChildProcess.start(
                "/usr/bin/python3",
                ["\(folder)/proxy.py", "\(folder)/server.pem", "\(Self.port)", "\(DNSStage.upstreamPorts[0])"],
                in: stage.playground.namespace("node1"), log: "\(folder)/proxy.log")
            defer { ChildProcess.end(proxy) }
            usleep(500_000)
            let answer = try stage.query("ok.test")
            #expect(answer.code == code, "\(answer)")
            let asked = stage.upstreams[0].queries.filter { $0.contains("ok.test") }
            #expect(asked == (code == "NOERROR" ? ["tcp ok.test 1"] : []))
        }
    }
}
