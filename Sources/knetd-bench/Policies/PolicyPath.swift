import Glibc
import KnetCore
import KnetLinux
import KnetPlayground

/// The way between two pods of one node, routed as knetd does it, under several tables.
enum PolicyPath {
    static let bare = "without any table"
    static let tracked = "without policies, connections tracked"
    static let policies = "with policies"

    static func build(_ name: String, _ contents: PolicyContents) throws -> Path {
        let node = try NetworkNamespace.anonymous()
        let attachments = [PolicyContents.sender, PolicyContents.receiver].map(contents.attachment)
        let ends = try attachments.map { attachment -> PodEnd in
            guard let address = attachment.addresses.first(where: { $0.family == .v4 }) else {
                throw Playground.Failure("\(attachment.title) has no IPv4 address")
            }
            return PodEnd(
                namespace: try NetworkNamespace.anonymous(), address: address, prefixLength: 32,
                gateway: .v4(0xA9FE_0101), gatewayMAC: attachment.hostMAC)
        }
        try node.run {
            try Kernel.forward()
            for (attachment, end) in zip(attachments, ends) {
                try end.plug(link: attachment.hostLink, mac: attachment.hostMAC)
                try end.route(link: attachment.hostLink)
            }
            if name == tracked { try track() }
            if name == policies { try load(contents) }
        }
        let path = Path(
            name: name, client: ends[0].namespace, server: ends[1].namespace, address: ends[1].address,
            between: [node])
        if name == policies { try tryWhatIsDenied(path) }
        return path
    }

    /// What a node has anyway: so connection tracking itself is not taken for the price of policies.
    private static func track() throws {
        try Nftables().run(
            """
            table inet bench {
                chain forward {
                    type filter hook forward priority filter; policy accept;
                    ct state established,related accept
                }
            }
            """)
    }

    private static func load(_ contents: PolicyContents) throws {
        let running = try RunningPolicies(contents)
        defer { running.stop() }
        _ = try running.waitUntilInForce()
    }

    /// Rules that do not see these packets would be measured as cheap: a port that no policy admits must not answer, not even that
    /// nobody listens.
    private static func tryWhatIsDenied(_ path: Path) throws {
        do {
            try path.client.run {
                let socket = try Sockets.open(path.address.family, SOCK_STREAM, milliseconds: 300)
                try Sockets.connect(socket.number, to: path.address, port: path.port + 1)
            }
        } catch let error as SystemError {
            // A connection that came to nothing in its time.
            if error.errno == EINPROGRESS { return }
            throw Playground.Failure("the policies do not hold: \(error)")
        }
        throw Playground.Failure("the policies do not hold: a port that none admits is open")
    }
}
