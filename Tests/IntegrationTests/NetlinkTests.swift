import Foundation
import Glibc
import KnetCore
import KnetLinux
import Synchronization
import TestSupport
import Testing

/// The real kernel, each test in a network namespace of its own.
@Suite(.enabled(if: Root.isAvailable)) struct NetlinkTests {
    private let namespace: NetworkNamespace

    init() throws { namespace = try NetworkNamespace.anonymous() }

    private func veth(_ socket: NetlinkSocket, peerNamespace: NetworkNamespace? = nil) throws -> Int32 {
        try socket.createVeth(
            VethRequest(
                name: "a", mac: MACAddress(derivedFrom: "a"), alias: "mark", peerName: "b",
                peerMAC: MACAddress(derivedFrom: "b"), peerNamespace: peerNamespace?.number, mtu: 1400))
        return try NetlinkSocket.index(of: "a")
    }

    @Test func aVethIsMadeWithItsPeerInAnotherNamespace() throws {
        let other = try NetworkNamespace.anonymous()
        try namespace.run {
            let socket = try NetlinkSocket()
            _ = try veth(socket, peerNamespace: other)
            let link = try #require(try socket.links().first { $0.name == "a" })
            #expect(link.mtu == 1400 && link.isUp && link.alias == "mark" && link.kind == "veth")
            #expect(link.mac == MACAddress(derivedFrom: "a"))
            #expect(try !socket.links().contains { $0.name == "b" })
        }
        let peers = try other.run { try NetlinkSocket().links() }
        #expect(peers.contains { $0.name == "b" && $0.mtu == 1400 })
    }

    @Test func linksThatStayAreListedWhileOthersComeAndGo() throws {
        let file = "/tmp/knetd-links-\(getpid())"
        defer { unlink(file) }
        let lines = (0..<20_000).map { number in
            // Twenty are there at any time.
            "link add a\(number) type veth peer name b\(number)\n" + (number < 20 ? "" : "link del a\(number - 20)\n")
        }
        try Data(lines.joined().utf8).write(to: URL(fileURLWithPath: file))
        try namespace.run {
            let socket = try NetlinkSocket()
            for number in 0..<200 {
                let name = "stay\(number)"
                try socket.createVeth(
                    VethRequest(
                        name: name, mac: MACAddress(derivedFrom: name), alias: nil, peerName: "peer\(number)",
                        peerMAC: MACAddress(derivedFrom: "peer\(number)"), peerNamespace: nil, mtu: 1400))
            }
            let stay = Set(try socket.links().map(\.name).filter { $0.hasPrefix("stay") })
            #expect(stay.count == 200)
            let process = try ChildProcess.start("ip", ["-batch", file], in: namespace, log: "/dev/null")
            defer { ChildProcess.end(process) }
            var others: Set<String> = []
            for _ in 0..<50 {
                let start = ContinuousClock.now
                let found = try socket.links().map(\.name)
                #expect(ContinuousClock.now - start < .seconds(2))
                #expect(stay.isSubset(of: found))
                #expect(Set(found).count == found.count)
                others.formUnion(found.filter { $0.hasPrefix("a") })
            }
            #expect(others.count > 5, "links came and went")
        }
    }

    @Test func addressesAreUsableAtOnce() throws {
        try namespace.run {
            let socket = try NetlinkSocket()
            let index = try veth(socket)
            let address = try #require(IPAddress("fd42::1"))
            try socket.request(.addAddress(address, prefixLength: 64, index: index))
            let found = try socket.addresses().filter { $0.index == index }
            // Just the one: no link-local address was made.
            #expect(found.map(\.address) == [address])
            #expect(found[0].isUsable && found[0].subnet.description == "fd42::/64")
        }
    }

    @Test func routesOfOursAreToldFromOthers() throws {
        try namespace.run {
            let socket = try NetlinkSocket()
            let index = try veth(socket)
            // Without loopback there is no table of local addresses, and the kernel takes no gateway.
            try socket.request(.changeLink(index: NetlinkSocket.index(of: "lo"), up: true))
            var ours = Route(destination: try CIDR.parse("10.42.2.0/24"), index: index)
            var theirs = Route(destination: try CIDR.parse("10.42.3.0/24"), index: index, origin: 4)
            let six = Route(destination: try CIDR.parse("fd42:0:0:2::/64"), index: index, mtu: 1300)
            let nowhere = Route(destination: try CIDR.parse("10.42.9.0/24"), index: 0)
            for route in [ours, theirs, six, nowhere] { try socket.request(.addRoute(route, replacing: false)) }
            #expect(try Set(socket.routes(.v4, origin: Route.knetdOrigin)) == [ours, nowhere])
            #expect(try socket.routes(.v6, origin: Route.knetdOrigin) == [six])
            theirs.origin = Route.knetdOrigin
            let error = try #require(throws: SystemError.self) {
                try socket.request(.addRoute(theirs, replacing: false))
            }
            #expect(error.errno == EEXIST)
            ours.gateway = IPAddress("10.42.2.1")
            ours.onlink = true
            // The other end must be up for a gateway.
            try socket.request(.changeLink(index: NetlinkSocket.index(of: "b"), up: true))
            try socket.request(.addRoute(ours, replacing: true))
            #expect(try Set(socket.routes(.v4, origin: Route.knetdOrigin)) == [ours, nowhere])
            try socket.request(.deleteRoute(ours))
            #expect(try socket.routes(.v4, origin: Route.knetdOrigin) == [nowhere])
        }
    }

    @Test func rulesOfOursAreToldFromOthers() throws {
        try namespace.run {
            let socket = try NetlinkSocket()
            let rule = Rule(family: .v4, priority: 700, table: 107, mark: 0x10, mask: 0xF0)
            try socket.request(.addRule(rule))
            #expect(try socket.rules(.v4, origin: Route.knetdOrigin) == [rule])
            #expect(try socket.rules(.v4).count == 4)
            try socket.request(.deleteRule(rule))
            #expect(try socket.rules(.v4).count == 3)
        }
    }

    @Test func aVXLANDeviceLearnsNothingAndTakesNeighboursAndFDBEntries() throws {
        try namespace.run {
            let socket = try NetlinkSocket()
            let underlay = try veth(socket)
            let local = try #require(IPAddress("192.168.1.1"))
            try socket.request(.addAddress(local, prefixLength: 24, index: underlay))
            let parameters = VXLAN(vni: 77, port: 8472, local: local, underlay: underlay)
            let mac = MACAddress(derivedFrom: "vtep")
            try socket.createVXLAN(name: "vx", mac: mac, mtu: 1350, alias: "mark", parameters)
            let link = try #require(try socket.links().first { $0.name == "vx" })
            #expect(
                link.vxlan == parameters && link.mtu == 1350 && link.mac == mac && link.alias == "mark" && link.isUp)
            let neighbour = Neighbour(index: link.index, address: try #require(IPAddress("10.42.2.0")), mac: mac)
            let entry = FDBEntry(index: link.index, mac: mac, destination: try #require(IPAddress("192.168.1.2")))
            try socket.request(.replaceNeighbour(neighbour))
            try socket.request(.replaceFDB(entry))
            #expect(try socket.permanentNeighbours() == [neighbour])
            #expect(try socket.fdb() == [entry])
            try socket.request(.deleteNeighbour(neighbour))
            try socket.request(.deleteFDB(entry))
            #expect(try socket.permanentNeighbours().isEmpty && socket.fdb().isEmpty)
        }
    }

    @Test func eachRequestOfABatchHasItsOwnError() throws {
        try namespace.run {
            let socket = try NetlinkSocket()
            let index = try veth(socket)
            var batch = NetlinkBatch()
            let count = 300
            for number in 0..<count {
                let block = CIDR(containing: .v4(0x0A2A_0000 + UInt32(number) * 256), prefixLength: 24)
                // Every tenth goes to a link that is not there.
                batch.append(
                    .addRoute(Route(destination: block, index: number % 10 == 0 ? 9999 : index), replacing: false))
            }
            let errors = try socket.send(batch)
            #expect(errors.indices.allSatisfy { (errors[$0] != nil) == ($0 % 10 == 0) })
            #expect(errors[0]?.errno == ENODEV)
            #expect(try socket.routes(.v4, origin: Route.knetdOrigin).count == count * 9 / 10)
        }
    }

    @Test func theKernelsOwnWordsReachTheError() throws {
        try namespace.run {
            let socket = try NetlinkSocket()
            let error = try #require(throws: SystemError.self) {
                try socket.request(
                    .addRoute(
                        Route(
                            destination: CIDR.parse("10.0.0.0/8"), gateway: IPAddress("192.0.2.1"),
                            index: NetlinkSocket.index(of: "lo")),
                        replacing: false))
            }
            #expect("\(error)".contains("route to 10.0.0.0/8"))
            #expect(error.detail?.isEmpty == false, "\(error)")
        }
    }

    @Test func aNamespaceHasACookieOfItsOwnAndOtherFilesAreNoNamespaces() throws {
        #expect(try namespace.cookie() != NetworkNamespace.anonymous().cookie())
        #expect(try namespace.cookie() == namespace.cookie())
        #expect(throws: NotANamespace.self) { try NetworkNamespace(path: "/proc/self/ns/mnt") }
        #expect(throws: NotANamespace.self) { try NetworkNamespace(path: "/etc/hostname") }
        #expect(throws: SystemError.self) { try NetworkNamespace(path: "/run/netns/not-there") }
    }
}

@Suite(.enabled(if: Root.isAvailable)) struct MonitorTests {
    private final class Heard: Sendable {
        let events = Mutex<[KernelEvent]>([])
        func contains(_ event: KernelEvent) -> Bool { events.withLock { $0.contains(event) } }
    }

    private func eventually(_ condition: () throws -> Bool) throws -> Bool {
        for _ in 0..<200 {
            if try condition() { return true }
            usleep(10_000)
        }
        return false
    }

    @Test func whatOthersDoIsHeardAndWhatWeDoIsNot() throws {
        let namespace = try NetworkNamespace.anonymous()
        let heard = Heard()
        let pool = NetlinkPool()
        try namespace.run {
            try NetlinkMonitor.start(pool: pool) { events in heard.events.withLock { $0 += events } }
            let lo = try NetlinkSocket.index(of: "lo")
            try pool.with { try $0.request(.changeLink(index: lo, up: true)) }
            usleep(50_000)
            heard.events.withLock { $0 = [] }
            let route = Route(destination: try CIDR.parse("10.42.2.0/24"), index: lo)
            try pool.with { try $0.request(.addRoute(route, replacing: false)) }
            usleep(50_000)
            #expect(heard.events.withLock { $0 } == [])
            try NetlinkSocket().request(.deleteRoute(route))
            #expect(try eventually { heard.contains(.route) })
            try Nftables().run("add table inet somebody")
            usleep(50_000)
            #expect(!heard.contains(.nftables(table: "knetd_masquerade")))
            try Nftables().run("add table inet knetd_masquerade")
            #expect(try eventually { heard.contains(.nftables(table: "knetd_masquerade")) })
            try Sysctl.write("net/ipv4/ip_forward", "1")
            #expect(try eventually { heard.contains(.sysctl) })
        }
    }

    @Test func lostEventsAreTold() throws {
        let namespace = try NetworkNamespace.anonymous()
        let heard = Heard()
        try namespace.run {
            let pool = NetlinkPool()
            try NetlinkMonitor.start(pool: pool, receiveBuffer: 1) { events in
                heard.events.withLock { $0 += events }
                // Slower than the flood.
                usleep(2000)
            }
            let socket = try NetlinkSocket()
            try socket.request(.changeLink(index: NetlinkSocket.index(of: "lo"), up: true))
            var batch = NetlinkBatch()
            for number in 0..<2000 {
                batch.append(
                    .addRoute(
                        Route(destination: CIDR(host: .v4(0x0A2A_0000 + UInt32(number))), index: 1), replacing: false))
            }
            _ = try socket.send(batch)
            #expect(try eventually { heard.contains(.lost) })
        }
    }
}
