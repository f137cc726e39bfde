import KnetCore
import KnetLinux

/// The kernel's switches that make a node a router for its pods.
enum Forwarding {
    static let sysctls: [IPFamily: String] = [.v4: "net/ipv4/ip_forward", .v6: "net/ipv6/conf/all/forwarding"]

    static func set(_ name: String, _ value: String, _ socket: NetlinkSocket) throws {
        if name == sysctls[.v6] { try keepRouterAdvertisements(socket) }
        try Sysctl.write(name, value)
    }

    /// A host that forwards IPv6 ignores router advertisements unless `accept_ra` is 2. Where the default route came by
    /// one, it would be lost.
    private static func keepRouterAdvertisements(_ socket: NetlinkSocket) throws {
        // RTPROT_RA, <linux/rtnetlink.h>.
        let advertised = try socket.routes(.v6, origin: 9).filter { $0.destination.prefixLength == 0 }.map(\.index)
        guard !advertised.isEmpty else { return }
        for link in try socket.links() where advertised.contains(link.index) {
            let name = "net/ipv6/conf/\(link.name)/accept_ra"
            if try Sysctl.read(name) == "1" { try Sysctl.write(name, "2") }
        }
    }
}
