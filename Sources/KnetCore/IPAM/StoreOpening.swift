import CSQLite
import Glibc

extension AllocationStore {
    private static let fileName = "knetd.db"

    /// Opens the store wherever it can be: a node must take pods although its disk is damaged, full or read-only. What the
    /// store held then is read back from the kernel (`adopt`).
    /// - Parameters:
    ///   - stateDirectory: where it belongs.
    ///   - runDirectory: where it goes if it can't be there; a memory file system that a reboot empties, as it voids all
    ///     allocations anyway.
    ///   - now: seconds since 1970; part of the name that a damaged store gets.
    /// - Returns: the store, and what was wrong, `nil` where nothing was.
    public static func open(
        stateDirectory: String, runDirectory: String, bootID: String, now: Int
    ) throws -> (store: AllocationStore, fault: String?) {
        let path = "\(stateDirectory)/\(fileName)"
        do {
            return (try AllocationStore(path: path, bootID: bootID), nil)
        } catch let error as SQLiteError where damage.contains(error.code) {
            let aside = "\(path).damaged-\(now)"
            guard rename(path, aside) == 0 else {
                return (
                    try AllocationStore(path: "\(runDirectory)/\(fileName)", bootID: bootID),
                    "the store \(path) is damaged and cannot be moved aside; allocations are in \(runDirectory) instead"
                )
            }
            for suffix in ["-wal", "-shm"] { unlink(path + suffix) }
            return (
                try AllocationStore(path: path, bootID: bootID),
                "the store was damaged; it is now \(aside), and a new one was filled from the kernel"
            )
        } catch {
            return (
                try AllocationStore(path: "\(runDirectory)/\(fileName)", bootID: bootID),
                "the store \(path) cannot be used (\(error)); allocations are in \(runDirectory) instead: "
                    + "make room or the folder writable, then restart knetd"
            )
        }
    }

    private static let damage: [Int32] = [SQLITE_CORRUPT, SQLITE_NOTADB]

    /// The files of a store, wherever it was.
    public static func files(stateDirectory: String, runDirectory: String) -> [String] {
        [stateDirectory, runDirectory].flatMap { directory in
            ["", "-wal", "-shm"].map { "\(directory)/\(fileName)\($0)" }
        }
    }
}

/// A transaction that SQLite could not do; nothing of it was recorded.
public struct StoreFailure: Error, CustomStringConvertible {
    public let description: String

    init(_ path: String, _ error: SQLiteError) {
        let remedy: String? =
            switch error.code {
            case SQLITE_FULL, SQLITE_IOERR: "free space on its file system"
            case SQLITE_READONLY, SQLITE_CANTOPEN: "make its folder writable"
            case SQLITE_CORRUPT, SQLITE_NOTADB: "restart knetd, which rebuilds it from the kernel"
            default: nil
            }
        description =
            "the store \(path) failed: \(error.message)" + (remedy.map { "; \($0)" } ?? "")
    }
}
