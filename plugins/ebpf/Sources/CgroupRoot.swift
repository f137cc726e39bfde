import FoundationEssentials
import Glibc
import KnetLinux

/// The folder of the cgroup (version 2) that all processes of this node are below.
enum CgroupRoot {
    static func open() throws -> Descriptor {
        guard let path = path(Mount.all()) else {
            throw Refusal(description: "no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")
        }
        // What a container sees as the root is its own cgroup, which no other process is below.
        let own = (try? String(contentsOfFile: "/proc/self/cgroup", encoding: .utf8)) ?? ""
        guard !own.contains("0::/\n") || access("\(path)/cgroup.events", F_OK) != 0 || isAbove(path) else {
            throw Refusal(
                description:
                    "\(path) is this container's own cgroup; mount the node's /sys/fs/cgroup, as deploy/overlays/ebpf does"
            )
        }
        return try Descriptor(opening: path, O_RDONLY | O_DIRECTORY)
    }

    private static func isAbove(_ path: String) -> Bool {
        Mount.all().contains { $0.path == path && $0.root.hasPrefix("/..") }
    }

    /// In a container the mount from the node counts: its root is above what the container sees as the root.
    static func path(_ mounts: [Mount]) -> String? {
        let found = mounts.filter { $0.type == "cgroup2" }
        return (found.first { $0.root.hasPrefix("/..") } ?? found.first { $0.root == "/" } ?? found.first)?.path
    }
}
