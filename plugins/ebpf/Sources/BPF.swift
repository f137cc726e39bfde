import CBPF
import Glibc
import KnetLinux
import Synchronization

/// What the kernel tells of a program.
struct BPFProgramInfo: Sendable {
    let id: UInt32
    let name: String
    /// A digest of its instructions.
    let tag: [UInt8]
    let mapIDs: [UInt32]
    /// Counted where `kernel.bpf_stats_enabled` is set.
    let runs: UInt64
    let nanoseconds: UInt64
}

struct BPFMapInfo: Sendable {
    let name: String
    let type: UInt32
    let keyBytes: Int
    let valueBytes: Int
    let capacity: Int
}

/// An open map.
struct BPFMap: Sendable {
    let descriptor: SharedDescriptor
    let info: BPFMapInfo

    init(_ descriptor: consuming Descriptor) throws(SystemError) {
        info = try BPF.mapInfo(descriptor.number)
        self.descriptor = SharedDescriptor(descriptor)
    }

    func set(_ key: [UInt8], _ value: [UInt8]) throws(SystemError) {
        try BPF.check("write to map \(info.name)", bpf_map_update_elem(descriptor.number, key, value, 0))
    }

    /// That there is none is no error.
    func remove(_ key: [UInt8]) throws(SystemError) {
        let status = bpf_map_delete_elem(descriptor.number, key)
        if status != -ENOENT { try BPF.check("remove from map \(info.name)", status) }
    }

    /// - Parameter bytes: of the value; those of all processors for a map that has one for each.
    func value(_ key: [UInt8], bytes: Int? = nil) -> [UInt8]? {
        var value = [UInt8](repeating: 0, count: bytes ?? info.valueBytes)
        return bpf_map_lookup_elem(descriptor.number, key, &value) == 0 ? value : nil
    }

    /// One at a time: nobody else writes.
    var keys: [[UInt8]] {
        var keys: [[UInt8]] = []
        var next = [UInt8](repeating: 0, count: info.keyBytes)
        // A map that somebody fills meanwhile must not hold this up for ever.
        while keys.count <= info.capacity,
            (keys.last.map { bpf_map_get_next_key(descriptor.number, $0, &next) }
                ?? bpf_map_get_next_key(descriptor.number, nil, &next)) == 0
        {
            keys.append(next)
        }
        return keys
    }
}

enum BPF {
    /// libbpf gives `-errno`.
    static func check(_ operation: @autoclosure () -> String, _ status: Int32) throws(SystemError) {
        if status < 0 { throw SystemError(operation(), errno: -status) }
    }

    static func open(programID id: UInt32) throws(SystemError) -> Descriptor {
        let number = bpf_prog_get_fd_by_id(id)
        try check("open program \(id)", number)
        return Descriptor(owning: number)
    }

    static func open(mapID id: UInt32) throws(SystemError) -> Descriptor {
        let number = bpf_map_get_fd_by_id(id)
        try check("open map \(id)", number)
        return Descriptor(owning: number)
    }

    static func programInfo(_ descriptor: Int32) throws(SystemError) -> BPFProgramInfo {
        var info = bpf_prog_info()
        var maps = [UInt32](repeating: 0, count: 64)
        var size = UInt32(MemoryLayout<bpf_prog_info>.size)
        let status = maps.withUnsafeMutableBufferPointer { buffer in
            info.nr_map_ids = UInt32(buffer.count)
            info.map_ids = UInt64(UInt(bitPattern: buffer.baseAddress))
            return bpf_obj_get_info_by_fd(descriptor, &info, &size)
        }
        try check("read a program", status)
        return BPFProgramInfo(
            id: info.id, name: text(info.name), tag: withUnsafeBytes(of: info.tag) { Array($0) },
            mapIDs: Array(maps.prefix(Int(info.nr_map_ids))), runs: info.run_cnt, nanoseconds: info.run_time_ns)
    }

    static func mapInfo(_ descriptor: Int32) throws(SystemError) -> BPFMapInfo {
        var info = bpf_map_info()
        var size = UInt32(MemoryLayout<bpf_map_info>.size)
        try check("read a map", bpf_obj_get_info_by_fd(descriptor, &info, &size))
        return BPFMapInfo(
            name: text(info.name), type: info.type, keyBytes: Int(info.key_size), valueBytes: Int(info.value_size),
            capacity: Int(info.max_entries))
    }

    private static func text<T>(_ name: T) -> String {
        withUnsafeBytes(of: name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    static let processors = Int(max(libbpf_num_possible_cpus(), 1))

    // MARK: What libbpf says

    private static let said = Mutex<[String]>([])

    /// - Returns: the last of what libbpf and the kernel's verifier said while `body` ran.
    static func listening<Result>(_ body: () -> Result) -> (result: Result, said: [String]) {
        said.withLock { $0 = [] }
        libbpf_set_print { level, format, arguments in
            guard level.rawValue <= LIBBPF_INFO.rawValue, let format, let arguments else { return 0 }
            var line = [CChar](repeating: 0, count: 16_384)
            vsnprintf(&line, line.count, format, arguments)
            let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
            BPF.said.withLock { $0 += text.split(separator: "\n").map(String.init) }
            return 0
        }
        defer { libbpf_set_print(nil) }
        let result = body()
        return (result, said.withLock { Array($0.suffix(keptLines)) })
    }

    private static let keptLines = 12
}
