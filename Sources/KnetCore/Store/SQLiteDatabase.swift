import Synchronization

/// A connection that threads take turns with.
// @unchecked: the connection is reached only under the lock.
final class SQLiteDatabase: @unchecked Sendable {
    enum Access {
        case read
        /// Waits at the beginning for others that write, not in the middle.
        case write
    }

    private let lock = Mutex(())
    private let connection: SQLiteConnection

    /// Opens or creates a database.
    /// - Parameters:
    ///   - path: the file; its folder exists.
    ///   - busyTimeout: milliseconds to wait for another connection's lock.
    ///   - settings: PRAGMAs for this connection.
    init(path: String, busyTimeout: Int32, settings: String) throws(SQLiteError) {
        connection = try SQLiteConnection(path: path, busyTimeout: busyTimeout)
        try connection.script(settings)
    }

    /// Runs `body` as one transaction, of which nothing stays if it throws. Blocks; `body` must not begin another.
    func transaction<Result: Sendable>(
        _ access: Access, _ body: (SQLiteConnection) throws -> Result
    ) throws -> Result {
        try lock.withLock { _ in
            try connection.transaction(access) { try body(connection) }
        }
    }
}
