import Glibc
import KnetCore
import TestSupport
import Testing

@testable import KnetLinux

@Suite struct MountTests {
    @Test func whatTheKernelWritesIsRead() {
        let text = """
            36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue
            40 28 0:30 /../.. /host/sys/fs/cgroup ro - cgroup2 cgroup2 rw
            cut short
            41 28 0:31 / /sys/fs/bpf rw -
            """
        #expect(
            Mount.parse(text) == [
                Mount(root: "/mnt1", path: "/mnt2", type: "ext3"),
                Mount(root: "/../..", path: "/host/sys/fs/cgroup", type: "cgroup2"),
            ])
    }

    @Test(.enabled(if: Root.isAvailable)) func aFilesystemComesAndGoes() throws {
        let path = "/tmp/knetd-mount-\(getpid())"
        try syscall("mkdir") { mkdir(path, 0o700) }
        defer { rmdir(path) }
        // A node has hundreds: more than the kernel tells at one reading.
        for _ in 0..<100 { try Mount.add("tmpfs", at: path) }
        #expect(Mount.all().count { $0 == Mount(root: "/", path: path, type: "tmpfs") } == 100)
        for _ in 0..<100 { Mount.remove(path) }
        #expect(!Mount.all().contains { $0.path == path })
    }
}
