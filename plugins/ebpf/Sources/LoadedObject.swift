import CBPF
import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux

/// The programs and maps of one object file, loaded. Programs and maps are known by their names in it.
struct LoadedObject<Name: ObjectName, Map: ObjectName>: Sendable {
    struct Program: Sendable {
        let descriptor: SharedDescriptor
        let info: BPFProgramInfo
    }

    let programs: [Name: Program]
    let maps: [Map: BPFMap]

    /// - Parameters:
    ///   - file: in which there is another than the embedded one where `KNETD_BPF_OBJECTS` names a folder, as tests of upgrades do.
    ///   - text: the object file in Base64.
    ///   - sizes: entries that maps have room for.
    ///   - kept: maps of programs that are at work, for the new ones to go on with where they are alike. Else what is in them is
    ///     taken over.
    /// - Throws: `Refusal`.
    init(_ file: String, _ text: String, sizes: [Map: Int], kept: [Map: BPFMap]) throws {
        let folder = getenv("KNETD_BPF_OBJECTS").map { String(cString: $0) }
        let object = try folder.map { try Data(contentsOf: URL(fileURLWithPath: "\($0)/\(file)")) }
        guard let bytes = object ?? Data(base64Encoded: text) else { throw Refusal(description: "no object") }
        let (outcome, said) = BPF.listening {
            Result { try Self.load(bytes, sizes: sizes, kept: kept) }
        }
        do {
            self = try outcome.get()
        } catch {
            throw Refusal(description: ([("\(error)")] + said).joined(separator: "\n"))
        }
    }

    private init(programs: [Name: Program], maps: [Map: BPFMap]) {
        self.programs = programs
        self.maps = maps
    }

    private static func load(_ bytes: Data, sizes: [Map: Int], kept: [Map: BPFMap]) throws -> Self {
        let object = bytes.withUnsafeBytes { bpf_object__open_mem($0.baseAddress, $0.count, nil) }
        guard let object else { throw SystemError("open the BPF object") }
        // What is kept of it are descriptors of our own.
        defer { bpf_object__close(object) }
        for map in Map.allCases {
            guard let found = bpf_object__find_map_by_name(object, map.rawValue) else {
                throw Refusal(description: "the BPF object has no map \(map.rawValue)")
            }
            if let size = sizes[map] {
                try BPF.check("size map \(map.rawValue)", bpf_map__set_max_entries(found, UInt32(size)))
            }
            guard let old = kept[map], old.info.type == bpf_map__type(found).rawValue,
                old.info.keyBytes == bpf_map__key_size(found), old.info.valueBytes == bpf_map__value_size(found),
                old.info.capacity == bpf_map__max_entries(found)
            else { continue }
            try BPF.check("go on with map \(map.rawValue)", bpf_map__reuse_fd(found, old.descriptor.number))
        }
        for name in Name.allCases where bpf_object__find_program_by_name(object, name.rawValue) == nil {
            throw Refusal(description: "the BPF object has no program \(name.rawValue)")
        }
        try BPF.check("load the BPF programs", bpf_object__load(object))
        var programs: [Name: Program] = [:]
        var maps: [Map: BPFMap] = [:]
        for name in Name.allCases {
            let copy = try own(bpf_program__fd(bpf_object__find_program_by_name(object, name.rawValue)))
            let info = try BPF.programInfo(copy.number)
            programs[name] = Program(descriptor: SharedDescriptor(copy), info: info)
        }
        for map in Map.allCases {
            maps[map] = try BPFMap(own(bpf_object__find_map_fd_by_name(object, map.rawValue)))
        }
        let loaded = Self(programs: programs, maps: maps)
        loaded.takeOver(kept)
        return loaded
    }

    /// Takes what other maps know that these do not. Values grow at their ends (`knet.h`): what they have not is zero.
    func takeOver(_ others: [Map: BPFMap]) {
        for (name, old) in others {
            guard let new = maps[name], new.info.id != old.info.id, new.info.type == old.info.type,
                [BPF_MAP_TYPE_HASH.rawValue, BPF_MAP_TYPE_LRU_HASH.rawValue].contains(old.info.type),
                new.info.keyBytes == old.info.keyBytes
            else { continue }
            let missing = [UInt8](repeating: 0, count: max(0, new.info.valueBytes - old.info.valueBytes))
            // What has no room is as if it had never been there.
            try? old.visit { new.add(Array($0), $1.prefix(new.info.valueBytes) + missing) }
        }
    }

    /// How full maps are.
    func fills(_ shown: [Map]) -> [MapFill] {
        shown.compactMap { map in
            maps[map].map { MapFill(name: map.rawValue, entries: $0.count, capacity: $0.info.capacity) }
        }
    }

    /// What to tell of maps that forget the oldest when they are full.
    func crowded(_ shown: [Map]) -> [String] {
        fills(shown).filter(\.isCrowded).map {
            "map \($0.name) is full with \($0.entries) of \($0.capacity) entries: the oldest are forgotten, and what they were about goes through the host's stack until it is known again; give it more room in plugins.ebpf"
        }
    }

    private static func own(_ number: Int32) throws -> Descriptor {
        Descriptor(owning: try syscall("copy a descriptor") { fcntl(number, F_DUPFD_CLOEXEC, 0) })
    }
}

struct MapFill {
    let name: String
    let entries: Int
    let capacity: Int

    /// The kernel begins to forget when what is free lies with processors, which have up to 128 entries each (LOCAL_FREE_TARGET in
    /// kernel/bpf/bpf_lru_list.c).
    var isCrowded: Bool { entries >= capacity - max(capacity / 20, min(capacity / 2, 128 * BPF.processors)) }

    /// As `knetd bpf` tells of it.
    var told: JSONValue { ["name": .string(name), "entries": .integer(entries), "capacity": .integer(capacity)] }
}

extension [MapFill] {
    func measure(_ page: inout MetricsText, _ name: String) {
        page.family("\(name)_entries", "gauge", "Entries of a map.")
        for fill in self { page.sample("\(name)_entries", ["map": fill.name], Double(fill.entries)) }
        page.family("\(name)_capacity", "gauge", "Entries that a map has room for.")
        for fill in self { page.sample("\(name)_capacity", ["map": fill.name], Double(fill.capacity)) }
    }
}

/// The name of a program or map in its object file.
public protocol ObjectName: RawRepresentable<String>, CaseIterable, Hashable, Sendable {}

/// Why the kernel would not have the programs, with the verifier's last words.
struct Refusal: Error, CustomStringConvertible {
    let description: String

    /// - Returns: what `load` returns, or what it throws as words.
    static func catching<Loaded>(_ load: () throws -> Loaded) -> Result<Loaded, Refusal> {
        Result(catching: load).mapError { Refusal(description: "\($0)") }
    }
}

extension Result where Failure == Refusal {
    var refusal: String? {
        if case .failure(let refusal) = self { refusal.description } else { nil }
    }
}
