import CBPF
import Glibc
import KnetLinux

/// How programs get to the packets that a device receives.
enum ProgramHooks: Sendable {
    /// Since 6.6.
    case tcx
    /// A filter of the qdisc clsact.
    case filter

    /// The better of those that the kernel has.
    /// - Parameter refused: ways that are not to be taken, for tests.
    init(refused: Set<String>) {
        var (count, id): (UInt32, UInt32) = (1, 0)
        let loopback = (try? NetlinkSocket.index(of: "lo")) ?? 1
        let status = knet_tcx_query(loopback, &id, &count)
        // More programs than there was room for are programs all the same.
        let hasTCX = status == 0 || status == -ENOSPC
        self = hasTCX && !refused.contains("tcx") ? .tcx : .filter
    }

    /// A program of ours on a device.
    struct Attached {
        let descriptor: SharedDescriptor
        let info: BPFProgramInfo
    }

    private static let mostPrograms = 64

    /// - Returns: programs of ours, as their names tell; more than one if somebody else put one there.
    func attached(to link: Int32) -> [Attached] {
        var ids = [UInt32](repeating: 0, count: Self.mostPrograms)
        var count: UInt32 = 0
        switch self {
        case .tcx:
            count = UInt32(ids.count)
            if knet_tcx_query(link, &ids, &count) != 0 { count = 0 }
        case .filter:
            // libbpf says aloud that there is none.
            count = BPF.listening { knet_tc_query(link, &ids[0]) }.result == 0 ? 1 : 0
        }
        return ids.prefix(Int(count)).compactMap { id in
            guard let descriptor = try? BPF.open(programID: id), let info = try? BPF.programInfo(descriptor.number),
                PathRole(kernelName: info.name) != nil
            else { return nil }
            return Attached(descriptor: SharedDescriptor(descriptor), info: info)
        }
    }

    /// Puts the program in the place of one of ours, without a moment in which there is none.
    func attach(_ program: Int32, to link: Int32) throws(SystemError) {
        try KernelWrites.during(1) { () throws(SystemError) in try attachNow(program, to: link) }
    }

    private func attachNow(_ program: Int32, to link: Int32) throws(SystemError) {
        switch self {
        case .tcx:
            let old = attached(to: link)
            let status = knet_tcx_attach(program, link, old.first?.descriptor.number ?? -1)
            // It is there.
            if status != -EEXIST { try BPF.check("attach a program", status) }
            for other in old.dropFirst() { _ = knet_tcx_detach(other.descriptor.number, link) }
        case .filter:
            let status = BPF.listening { knet_tc_attach(program, link) }
            if status.result < 0 {
                throw SystemError(
                    "attach a program", errno: -status.result, detail: status.said.joined(separator: "; "))
            }
        }
    }

    /// That the device or a program has gone is no error.
    func detach(from link: Int32) throws(SystemError) {
        for program in attached(to: link) {
            let status = KernelWrites.during(1) { detach(program, from: link) }
            if status != -ENODEV, status != -ENOENT { try BPF.check("detach a program", status) }
        }
    }

    private func detach(_ program: Attached, from link: Int32) -> Int32 {
        switch self {
        case .tcx: knet_tcx_detach(program.descriptor.number, link)
        case .filter: BPF.listening { knet_tc_detach(link) }.result
        }
    }
}

extension PathRole {
    /// The kernel keeps fifteen letters of a name.
    init?(kernelName: String) {
        guard let role = PathRole.allCases.first(where: { $0.rawValue.prefix(15) == kernelName }) else { return nil }
        self = role
    }
}
