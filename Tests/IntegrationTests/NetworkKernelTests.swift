import Glibc
import KnetCore
import KnetDataplane
import KnetLinux
import TestSupport
import Testing

/// What a dataplane writes is what it reads back, and nothing of anybody else's is touched.
@Suite(.enabled(if: Root.isAvailable)) struct NetworkKernelTests {
    private let namespace: NetworkNamespace
    private let pool = NetlinkPool()

    init() throws { namespace = try NetworkNamespace.anonymous() }

    /// Runs inside a node with an uplink `eth0` of 192.168.1.1.
    private func inNode(_ body: (NetworkKernel, NetlinkSocket) throws -> Void) throws {
        try namespace.run {
            let socket = try NetlinkSocket()
            try socket.createVeth(
                VethRequest(
                    name: "eth0", mac: MACAddress(derivedFrom: "eth0"), alias: nil, peerName: "far",
                    peerMAC: MACAddress(derivedFrom: "far"), peerNamespace: nil, mtu: 1500))
            try socket.request(.changeLink(index: NetlinkSocket.index(of: "far"), up: true))
            let address = try #require(IPAddress("192.168.1.1"))
            try socket.request(.addAddress(address, prefixLength: 24, index: NetlinkSocket.index(of: "eth0")))
            try body(NetworkKernel(pool: pool, nftables: Nftables()), socket)
        }
    }

    private var device: VXLANDevice {
        VXLANDevice(
            name: "knetd.1", mac: MACAddress(derivedFrom: "vtep"), mtu: 1450, vni: 1, port: 8472,
            local: .v4(0xC0A8_0101), underlay: "eth0")
    }

    private func entries() throws -> [NetworkEntry] {
        let vtep = try #require(IPAddress("10.42.2.0"))
        let six = try #require(IPAddress("fd42:0:0:2::"))
        let mac = MACAddress(derivedFrom: "peer")
        let network = Configuration.Network(
            podCIDRs: [try CIDR.parse("10.42.0.0/16"), try CIDR.parse("fd42::/48")], mtu: .automatic, masquerade: true,
            masqueradeExcept: [try CIDR.parse("172.16.0.0/12"), try CIDR.parse("10.42.0.0/17")])
        let table = try #require(
            MasqueradeTable.table(
                sources: [try CIDR.parse("10.42.1.0/24"), try CIDR.parse("fd42:0:0:1::/64")], network: network))
        return [
            .sysctl(name: "net/ipv4/ip_forward", value: "1"), .sysctl(name: "net/ipv6/conf/all/forwarding", value: "1"),
            .vxlan(device), .address(link: "knetd.1", address: try #require(IPAddress("10.42.1.0")), prefixLength: 32),
            .neighbour(link: "knetd.1", address: vtep, mac: mac), .neighbour(link: "knetd.1", address: six, mac: mac),
            .fdb(link: "knetd.1", mac: mac, destination: try #require(IPAddress("192.168.1.2"))),
            .route(NetworkRoute(to: try CIDR.parse("10.42.2.0/24"), via: vtep, link: "knetd.1", onlink: true)),
            .route(NetworkRoute(to: try CIDR.parse("fd42:0:0:2::/64"), via: six, link: "knetd.1", onlink: true)),
            .route(
                NetworkRoute(
                    to: try CIDR.parse("10.42.3.0/24"), via: IPAddress("192.168.1.3"), link: "eth0")),
            .route(NetworkRoute(to: try CIDR.parse("10.42.1.0/24"), link: nil)),
            .route(NetworkRoute(to: try CIDR.parse("fd42:0:0:1::/64"), link: nil)),
            .table(table),
        ]
    }

    @Test func whatIsWrittenIsReadBackTheSame() throws {
        try inNode { kernel, _ in
            let outcome = kernel.apply(KernelChanges(add: try entries().shuffled()))
            #expect(outcome.failures.isEmpty, "\(outcome.failures)")
            #expect(try Set(kernel.read()) == Set(entries()))
            // Another process has not seen how libnftables printed our table: the form is the same.
            let fresh = NetworkKernel(pool: pool, nftables: try Nftables())
            #expect(try Set(fresh.read()) == Set(entries()))
        }
    }

    @Test func removingEverythingLeavesWhatOthersMade() throws {
        try inNode { kernel, socket in
            let foreign = Route(
                destination: try CIDR.parse("10.9.0.0/16"), index: try NetlinkSocket.index(of: "eth0"), origin: 4)
            try socket.request(.addRoute(foreign, replacing: false))
            try Nftables().run("add table inet somebody; add chain inet somebody c")
            let before = try Nftables().list(table: "inet somebody")
            let links = try socket.links().map(\.name)
            _ = kernel.apply(KernelChanges(add: try entries()))
            let outcome = kernel.apply(KernelChanges(remove: try kernel.read().filter(\.isRemovable)))
            #expect(outcome.failures.isEmpty, "\(outcome.failures)")
            #expect(try kernel.read().filter(\.isRemovable).isEmpty)
            #expect(try Nftables().list(table: "inet somebody") == before)
            #expect(try socket.links().map(\.name) == links)
            #expect(try socket.routes(.v4).contains(foreign))
        }
    }

    @Test func aForeignRouteIsNotOverwrittenAndTheErrorSaysSo() throws {
        try inNode { kernel, socket in
            let foreign = Route(
                destination: try CIDR.parse("10.42.2.0/24"), index: try NetlinkSocket.index(of: "eth0"), origin: 4)
            try socket.request(.addRoute(foreign, replacing: false))
            let failures = kernel.apply(KernelChanges(add: try entries())).failures
            #expect(failures.map(\.entry.id) == [.route(try CIDR.parse("10.42.2.0/24"))])
            #expect(failures.first?.reason.contains("not knetd's") == true)
            #expect(try socket.routes(.v4).contains(foreign))
        }
    }

    @Test(arguments: [true, false])
    func aDeviceKeepsItsRoutesWhenOnlyItsMACOrMTUChanges(isMAC: Bool) throws {
        try inNode { kernel, socket in
            _ = kernel.apply(KernelChanges(add: try entries()))
            let index = try NetlinkSocket.index(of: "knetd.1")
            let routes = try socket.routes(.v4, origin: Route.knetdOrigin)
            try socket.request(
                isMAC
                    ? .changeLink(index: index, mac: MACAddress(derivedFrom: "somebody"))
                    : .changeLink(index: index, mtu: 1300))
            let changed = try #require(kernel.read().first { $0.id == .link("knetd.1") })
            #expect(changed != .vxlan(device))
            let outcome = kernel.apply(KernelChanges(add: [.vxlan(device)], replaced: [.link("knetd.1"): changed]))
            #expect(outcome.failures.isEmpty)
            // The kernel drops a device's neighbours with its MAC address.
            #expect(outcome.mustReadBack == isMAC)
            #expect(try NetlinkSocket.index(of: "knetd.1") == index)
            #expect(try socket.routes(.v4, origin: Route.knetdOrigin) == routes)
            #expect(try kernel.read().contains(.vxlan(device)))
        }
    }

    @Test func aDeviceWithOtherParametersIsMadeAnewAndEverythingIsReadBack() throws {
        try inNode { kernel, _ in
            _ = kernel.apply(KernelChanges(add: try entries()))
            var other = device
            other.port = 4789
            let outcome = kernel.apply(
                KernelChanges(add: [.vxlan(other)], replaced: [.link("knetd.1"): .vxlan(device)]))
            #expect(outcome.failures.isEmpty && outcome.mustReadBack)
            #expect(try kernel.read().contains(.vxlan(other)))
        }
    }

    @Test func aDeviceOfSomebodyElseWithOurVNINamesTheRemedy() throws {
        try inNode { kernel, socket in
            try socket.createVXLAN(
                name: "flannel.1", mac: MACAddress(derivedFrom: "f"), mtu: 1450, alias: "",
                VXLAN(vni: 1, port: 8472, local: .v4(0xC0A8_0101), underlay: NetlinkSocket.index(of: "eth0")))
            let failures = kernel.apply(KernelChanges(add: [.vxlan(device)])).failures
            #expect(failures.first?.reason.contains("remove the other device") == true, "\(failures)")
        }
    }
}

extension KernelChanges {
    init(add: [Entry], replaced: [Entry.ID: Entry]) {
        self.init(add: add)
        self.replaced = replaced
    }
}
