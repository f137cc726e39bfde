import Glibc
import KnetLinux

/// The folder of the cgroup (version 2) that all processes of this node are below.
enum CgroupRoot {
    static func open() throws -> Descriptor {
        guard let path = path(Mount.all()) else {
            throw Refusal(description: "no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")
        }
        return try Descriptor(opening: path, O_RDONLY | O_DIRECTORY)
    }

    /// In a container the mount from the node counts: its root is above what the container sees as the root.
    static func path(_ mounts: [Mount]) -> String? {
        let found = mounts.filter { $0.type == "cgroup2" }
        return (found.first { $0.root.hasPrefix("/..") } ?? found.first { $0.root == "/" } ?? found.first)?.path
    }
}
