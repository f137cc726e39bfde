import CBPF
import FoundationEssentials
import Glibc
import KnetLinux

/// The programs and maps, loaded.
struct PathObject: Sendable {
    struct Program: Sendable {
        let descriptor: SharedDescriptor
        let info: BPFProgramInfo
    }

    let programs: [PathRole: Program]
    let maps: [PathMap: BPFMap]

    /// Why the kernel would not have them.
    struct Refusal: Error, CustomStringConvertible {
        let description: String
    }

    /// - Parameters:
    ///   - sizes: entries that maps have room for.
    ///   - kept: maps of programs that are at work, for the new ones to go on with.
    init(sizes: [PathMap: Int], kept: [PathMap: BPFMap]) throws {
        guard let bytes = Data(base64Encoded: Embedded.path) else { throw Refusal(description: "no object") }
        let (outcome, said) = BPF.listening {
            Result { try Self.load(bytes, sizes: sizes, kept: kept) }
        }
        do {
            self = try outcome.get()
        } catch {
            throw Refusal(description: ([("\(error)")] + said).joined(separator: "\n"))
        }
    }

    private init(programs: [PathRole: Program], maps: [PathMap: BPFMap]) {
        self.programs = programs
        self.maps = maps
    }

    private static func load(_ bytes: Data, sizes: [PathMap: Int], kept: [PathMap: BPFMap]) throws -> PathObject {
        let object = bytes.withUnsafeBytes { bpf_object__open_mem($0.baseAddress, $0.count, nil) }
        guard let object else { throw SystemError("open the BPF object") }
        // What is kept of it are descriptors of our own.
        defer { bpf_object__close(object) }
        for map in PathMap.allCases {
            guard let found = bpf_object__find_map_by_name(object, map.rawValue) else {
                throw Refusal(description: "the BPF object has no map \(map.rawValue)")
            }
            if let size = sizes[map] {
                try BPF.check("size map \(map.rawValue)", bpf_map__set_max_entries(found, UInt32(size)))
            }
            let isAlike =
                kept[map].map { old in
                    old.info.type == bpf_map__type(found).rawValue && old.info.keyBytes == bpf_map__key_size(found)
                        && old.info.valueBytes == bpf_map__value_size(found)
                        && old.info.capacity == bpf_map__max_entries(found)
                } ?? false
            if isAlike, let old = kept[map] {
                try BPF.check(
                    "go on with map \(map.rawValue)", bpf_map__reuse_fd(found, old.descriptor.number))
            }
        }
        for role in PathRole.allCases {
            guard let program = bpf_object__find_program_by_name(object, role.rawValue) else {
                throw Refusal(description: "the BPF object has no program \(role.rawValue)")
            }
            bpf_program__set_type(program, BPF_PROG_TYPE_SCHED_CLS)
        }
        try BPF.check("load the BPF programs", bpf_object__load(object))
        var programs: [PathRole: Program] = [:]
        var maps: [PathMap: BPFMap] = [:]
        for role in PathRole.allCases {
            let copy = try own(bpf_program__fd(bpf_object__find_program_by_name(object, role.rawValue)))
            let info = try BPF.programInfo(copy.number)
            programs[role] = Program(descriptor: SharedDescriptor(copy), info: info)
        }
        for map in PathMap.allCases {
            maps[map] = try BPFMap(own(bpf_object__find_map_fd_by_name(object, map.rawValue)))
        }
        return PathObject(programs: programs, maps: maps)
    }

    private static func own(_ number: Int32) throws -> Descriptor {
        Descriptor(owning: try syscall("copy a descriptor") { fcntl(number, F_DUPFD_CLOEXEC, 0) })
    }
}
