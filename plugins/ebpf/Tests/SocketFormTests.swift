import KnetCore
import ServiceProxyPlugin
import Testing

@testable import EBPFPlugin
@testable import KnetLinux

/// What is written to the maps of sockets is what is read back, and where programs are attached.
@Suite struct SocketFormTests {
    private static let addresses = ["10.96.0.1", "255.255.255.255", "fd96::1", "2001:db8::ffff:1.2.3.4"]

    @Test(arguments: addresses) func slotsAreReadAsTheyWereWritten(text: String) throws {
        let address = try #require(IPAddress(text))
        let id = PlainFrontend.ID(transport: 17, address: address, port: 53)
        let slot = PlainFrontend.Slot(number: 70_000, address: address, port: 65_535)
        let key = SocketForm.slot(slot, of: id)
        let read = try #require(SocketForm.slot(key[...], SocketForm.backend(slot)[...]))
        #expect(read.id == id && read.slot == slot && key.count == 24)
        #expect(SocketForm.frontend(SocketForm.frontend(id)[...]) == id)
        #expect(SocketForm.client(SocketForm.client(1 << 40)[...]) == 1 << 40)
    }

    @Test func whatIsCutShortIsNothing() {
        #expect(SocketForm.frontend([1, 2, 3]) == nil && SocketForm.peer([0]) == nil && SocketForm.told([]) == nil)
    }

    @Test func theNodesOwnCgroupsCountInAContainerToo() {
        func mount(_ root: String, _ path: String, _ type: String = "cgroup2") -> Mount {
            Mount(root: root, path: path, type: type)
        }
        #expect(CgroupRoot.path([mount("/", "/proc", "proc")]) == nil)
        #expect(CgroupRoot.path([mount("/", "/a", "cgroup"), mount("/", "/b")]) == "/b")
        #expect(CgroupRoot.path([mount("/", "/sys/fs/cgroup"), mount("/../..", "/host")]) == "/host")
    }
}
