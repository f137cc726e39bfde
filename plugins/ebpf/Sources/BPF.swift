import CBPF
import Glibc
import KnetCore
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

extension BPFProgramInfo {
    /// As `knetd bpf` tells of it.
    func told(as name: String, on places: [String]) -> JSONValue {
        [
            "name": .string(name), "id": .integer(Int(id)), "links": .array(places.map(JSONValue.string)),
            "runs": .integer(Int(clamping: runs)),
            "nanosecondsEach": runs == 0 ? .null : .integer(Int(clamping: nanoseconds / runs)),
        ]
    }
}

struct BPFMapInfo: Sendable {
    let id: UInt32
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

    init(_ descriptor: consuming Descriptor) throws(SystemError) { try self.init(SharedDescriptor(descriptor)) }

    init(_ descriptor: SharedDescriptor) throws(SystemError) {
        info = try BPF.mapInfo(descriptor.number)
        self.descriptor = descriptor
    }

    /// - Parameter isLoading: part of loading programs, which is not counted as a write.
    func set(_ key: [UInt8], _ value: [UInt8], isLoading: Bool = false) throws(SystemError) {
        let update = { bpf_map_update_elem(descriptor.number, key, value, 0) }
        let status = isLoading ? update() : KernelWrites.during(1, update)
        if status == -E2BIG || status == -ENOSPC {
            throw SystemError(
                "write to map \(info.name)", errno: -status, detail: "it is full with \(info.capacity) entries")
        }
        try BPF.check("write to map \(info.name)", status)
    }

    /// Part of loading programs, where nothing has the key.
    func add(_ key: [UInt8], _ value: ArraySlice<UInt8>) {
        _ = value.withUnsafeBytes {
            bpf_map_update_elem(descriptor.number, key, $0.baseAddress, UInt64(BPF_NOEXIST))
        }
    }

    /// That there is none is no error.
    func remove(_ key: [UInt8]) throws(SystemError) {
        let status = KernelWrites.during(1) { bpf_map_delete_elem(descriptor.number, key) }
        if status != -ENOENT { try BPF.check("remove from map \(info.name)", status) }
    }

    /// - Parameter bytes: of the value; those of all processors for a map that has one for each.
    func value(_ key: [UInt8], bytes: Int? = nil) -> [UInt8]? {
        var value = [UInt8](repeating: 0, count: bytes ?? info.valueBytes)
        return bpf_map_lookup_elem(descriptor.number, key, &value) == 0 ? value : nil
    }

    /// Of a map that has a value for each processor: each number of the value, summed.
    func sums(_ key: [UInt8]) -> [UInt64] {
        // Each processor's value takes a multiple of eight bytes.
        guard let bytes = value(key, bytes: info.valueBytes * BPF.processors) else { return [] }
        let count = info.valueBytes / MemoryLayout<UInt64>.size
        var sums = [UInt64](repeating: 0, count: count)
        bytes.withUnsafeBytes { buffer in
            for (index, number) in buffer.bindMemory(to: UInt64.self).enumerated() { sums[index % count] &+= number }
        }
        return sums
    }

    /// Visits all entries of a hash table, many with one call (Linux 5.6).
    /// - Parameter body: takes keys and values.
    func visit(_ body: (ArraySlice<UInt8>, ArraySlice<UInt8>) -> Void) throws(SystemError) {
        var room = 4096
        var keys = [UInt8](repeating: 0, count: room * info.keyBytes)
        var values = [UInt8](repeating: 0, count: room * info.valueBytes)
        // Where the next batch begins: the kernel wants as much room as for a key, though it is a bucket's number.
        var place: [UInt8]?
        var next = [UInt8](repeating: 0, count: max(info.keyBytes, 4))
        while true {
            var count = UInt32(room)
            let status =
                if var place {
                    bpf_map_lookup_batch(descriptor.number, &place, &next, &keys, &values, &count, nil)
                } else {
                    bpf_map_lookup_batch(descriptor.number, nil, &next, &keys, &values, &count, nil)
                }
            if status == -ENOSPC, room < 1 << 20 {
                // A bucket holds more than there is room for.
                room *= 2
                keys = [UInt8](repeating: 0, count: room * info.keyBytes)
                values = [UInt8](repeating: 0, count: room * info.valueBytes)
                continue
            }
            if status != -ENOENT { try BPF.check("read map \(info.name)", status) }
            for index in 0..<Int(count) {
                body(
                    keys[index * info.keyBytes..<(index + 1) * info.keyBytes],
                    values[index * info.valueBytes..<(index + 1) * info.valueBytes])
            }
            if status == -ENOENT { return }
            place = next
        }
    }

    var count: Int {
        var count = 0
        guard (try? visit { _, _ in count += 1 }) != nil else { return keys.count }
        return count
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
            id: info.id, name: text(info.name), type: info.type, keyBytes: Int(info.key_size),
            valueBytes: Int(info.value_size),
            capacity: Int(info.max_entries))
    }

    static func linkInfo(_ descriptor: Int32) -> bpf_link_info? {
        var info = bpf_link_info()
        var size = UInt32(MemoryLayout<bpf_link_info>.size)
        return bpf_obj_get_info_by_fd(descriptor, &info, &size) == 0 ? info : nil
    }

    private static func text<T>(_ name: T) -> String {
        withUnsafeBytes(of: name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    /// What is not to be used, by `KNETD_BPF_REFUSE`: it shows in tests what other kernels do. `tcx`; `load`, as where functions of the kernel
    /// are missing that the programs call (connection tracking's before 6.0, `bpf_redirect_peer` before 5.10); `cgroup`.
    static var refused: Set<String> {
        Set((getenv("KNETD_BPF_REFUSE").map { String(cString: $0) } ?? "").split(separator: ",").map(String.init))
    }

    static let processors = Int(max(libbpf_num_possible_cpus(), 1))

    // MARK: What libbpf says

    /// By the thread that listens.
    private static let said = Mutex<[pthread_t: [String]]>([:])

    private static let hearing: Void = {
        _ = libbpf_set_print { level, format, arguments in
            guard level.rawValue <= LIBBPF_INFO.rawValue, let format, let arguments else { return 0 }
            var line = [CChar](repeating: 0, count: 16_384)
            vsnprintf(&line, line.count, format, arguments)
            let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
            // What nobody listens to is not told.
            BPF.said.withLock { $0[pthread_self()]? += text.split(separator: "\n").map(String.init) }
            return 0
        }
    }()

    /// - Returns: the last of what libbpf and the kernel's verifier said while `body` ran on this thread.
    static func listening<Result>(_ body: () -> Result) -> (result: Result, said: [String]) {
        hearing
        said.withLock { $0[pthread_self()] = [] }
        let result = body()
        let lines = said.withLock { $0.removeValue(forKey: pthread_self()) } ?? []
        return (result, lines.suffix(keptLines))
    }

    private static let keptLines = 12
}
