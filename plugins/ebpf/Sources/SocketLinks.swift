import CBPF
import FoundationEssentials
import Glibc
import KnetLinux

/// Programs at the root of cgroups that mean this network namespace's sockets, found in the kernel itself: what holds them may be
/// a folder of another mount namespace, or of another configuration.
struct SocketLinks {
    private let links: [UInt32: SharedDescriptor]
    private let maps: Set<UInt32>

    /// All that are there; none where the kernel tells of no links.
    /// - Parameter clients: the cookie of the namespace.
    init(of clients: UInt64) {
        var found: [UInt32: (link: SharedDescriptor, maps: [UInt32])] = [:]
        var (last, id): (UInt32, UInt32) = (0, 0)
        while bpf_link_get_next_id(last, &id) == 0 {
            last = id
            let number = bpf_link_get_fd_by_id(id)
            if number < 0 { continue }
            let link = SharedDescriptor(Descriptor(owning: number))
            found[id] = Self.maps(of: link.number).map { (link, $0) }
        }
        // Some ask who their clients are. The others share what those remember.
        let maps = Set(found.values.filter { $0.maps.contains { Self.isOf(clients, $0) } }.flatMap(\.maps))
        links = found.filter { !maps.isDisjoint(with: $1.maps) }.mapValues(\.link)
        self.maps = maps
    }

    /// - Returns: those of the program; `nil` where the link is not of one of ours to a cgroup.
    private static func maps(of link: Int32) -> [UInt32]? {
        guard let info = BPF.linkInfo(link), info.type == BPF_LINK_TYPE_CGROUP.rawValue,
            let opened = try? BPF.open(programID: info.prog_id), let program = try? BPF.programInfo(opened.number),
            // The kernel keeps fifteen letters of a name.
            SocketHook.allCases.contains(where: { $0.rawValue.prefix(15) == program.name })
        else { return nil }
        return program.mapIDs
    }

    /// Whether the map has the namespace among the clients.
    private static func isOf(_ clients: UInt64, _ id: UInt32) -> Bool {
        guard let map = try? BPFMap(BPF.open(mapID: id)), map.info.name == SocketMap.clients.rawValue else {
            return false
        }
        return map.value(SocketForm.client(clients)) != nil
    }

    /// Ends those that are not kept.
    func detach(but kept: [SharedDescriptor] = []) {
        let kept = Set(kept.compactMap { BPF.linkInfo($0.number)?.id })
        for (id, link) in links where !kept.contains(id) { _ = bpf_link_detach(link.number) }
    }

    /// Removes what pins these programs and their maps in the folder. What is not of these stays.
    func unpin(in folder: String) {
        for name in (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [] {
            let number = bpf_obj_get("\(folder)/\(name)")
            if number < 0 { continue }
            let object = Descriptor(owning: number)
            let isOurs =
                SocketHook(rawValue: name) != nil && BPF.linkInfo(object.number).map { links[$0.id] != nil } == true
                || SocketMap(rawValue: name) != nil
                    && (try? BPF.mapInfo(object.number)).map { maps.contains($0.id) } == true
            if isOurs { unlink("\(folder)/\(name)") }
        }
        rmdir(folder)
    }
}
