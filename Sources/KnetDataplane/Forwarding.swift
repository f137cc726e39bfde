import KnetCore
import KnetLinux

/// The kernel's switches that make a node a router for its pods.
enum Forwarding {
    static let sysctls: [IPFamily: String] = [.v4: "net/ipv4/ip_forward", .v6: "net/ipv6/conf/all/forwarding"]

    static func set(_ name: String, _ value: String, _ socket: NetlinkSocket) throws {
        if name == sysctls[.v6] { try keepRouterAdvertisements(socket) }
        try Sysctl.write(name, value)
    }

    /// A host that forwards IPv6 ignores router advertisements where `accept_ra` is 1, and would lose, or never get, its
    /// own default route. 2 means: although forwarding (Documentation/networking/ip-sysctl.rst).
    private static func keepRouterAdvertisements(_ socket: NetlinkSocket) throws {
        for link in try socket.links() where !link.isLoopback && link.alias?.hasPrefix("knetd ") != true {
            let name = "net/ipv6/conf/\(link.name)/accept_ra"
            if try Sysctl.read(name) == "1" { try Sysctl.write(name, "2") }
        }
    }
}
