import CSQLite

/// A connection to a database file, for one thread at a time. It closes itself.
final class SQLiteConnection {
    private let handle: OpaquePointer
    /// Statements that are prepared and at rest. One that runs is not here, so that none is begun twice at once.
    private var resting: [String: OpaquePointer] = [:]

    /// Opens or creates a database.
    /// - Parameters:
    ///   - path: the file; its folder exists.
    ///   - busyTimeout: milliseconds to wait for another connection's lock.
    init(path: String, busyTimeout: Int32) throws(SQLiteError) {
        var opened: OpaquePointer?
        let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX
        let code = sqlite3_open_v2(path, &opened, flags, nil)
        guard code == SQLITE_OK, let opened else {
            // A handle may be there all the same, to be asked for the reason.
            let reason = opened.map(sqlite3_extended_errcode) ?? code
            sqlite3_close(opened)
            throw SQLiteError(extendedCode: reason, message: String(cString: sqlite3_errstr(code)))
        }
        handle = opened
        sqlite3_extended_result_codes(handle, 1)
        sqlite3_busy_timeout(handle, busyTimeout)
    }

    deinit {
        for statement in resting.values { sqlite3_finalize(statement) }
        sqlite3_close(handle)
    }

    /// Runs statements that take no values and whose rows do not matter.
    func script(_ sql: String) throws(SQLiteError) {
        guard sqlite3_exec(handle, sql, nil, nil, nil) == SQLITE_OK else { throw lastError(sql) }
    }

    /// Runs one statement to its end.
    func run(_ sql: String, _ values: [any SQLiteValue] = []) throws {
        try withStatement(sql, values) { statement in
            while try step(statement, sql) {}
        }
    }

    /// What `read` makes of each row.
    func all<Element>(
        _ sql: String, _ values: [any SQLiteValue] = [], _ read: (SQLiteRow) throws -> Element
    ) throws -> [Element] {
        try withStatement(sql, values) { statement in
            var elements: [Element] = []
            while try step(statement, sql) { elements.append(try read(SQLiteRow(statement: statement))) }
            return elements
        }
    }

    /// The first that `read` does not pass over; later rows are not looked at.
    func first<Element>(
        _ sql: String, _ values: [any SQLiteValue] = [], _ read: (SQLiteRow) throws -> Element?
    ) throws -> Element? {
        try withStatement(sql, values) { statement in
            while try step(statement, sql) {
                if let element = try read(SQLiteRow(statement: statement)) { return element }
            }
            return nil
        }
    }

    /// Runs `body` as one transaction, of which nothing stays if it throws.
    func transaction<Result>(_ kind: SQLiteDatabase.Access, _ body: () throws -> Result) throws -> Result {
        try run(kind == .write ? "BEGIN IMMEDIATE" : "BEGIN DEFERRED")
        do {
            let result = try body()
            try run("COMMIT")
            return result
        } catch {
            // A full disk makes SQLite roll back by itself. What else fails here would hide the first error.
            if sqlite3_get_autocommit(handle) == 0 { try? run("ROLLBACK") }
            throw error
        }
    }

    private func withStatement<Result>(
        _ sql: String, _ values: [any SQLiteValue], _ body: (OpaquePointer) throws -> Result
    ) throws -> Result {
        let statement = try resting.removeValue(forKey: sql) ?? prepare(sql)
        defer {
            sqlite3_reset(statement)
            sqlite3_clear_bindings(statement)
            if let other = resting.updateValue(statement, forKey: sql) { sqlite3_finalize(other) }
        }
        for (index, value) in values.enumerated() {
            guard value.bind(to: statement, at: Int32(index + 1)) == SQLITE_OK else { throw lastError(sql) }
        }
        return try body(statement)
    }

    private func prepare(_ sql: String) throws(SQLiteError) -> OpaquePointer {
        var statement: OpaquePointer?
        guard sqlite3_prepare_v3(handle, sql, -1, UInt32(SQLITE_PREPARE_PERSISTENT), &statement, nil) == SQLITE_OK,
            let statement
        else { throw lastError(sql) }
        return statement
    }

    /// - Returns: whether there is a row.
    private func step(_ statement: OpaquePointer, _ sql: String) throws(SQLiteError) -> Bool {
        switch sqlite3_step(statement) {
        case SQLITE_ROW: return true
        case SQLITE_DONE: return false
        default: throw lastError(sql)
        }
    }

    private func lastError(_ sql: String) -> SQLiteError {
        SQLiteError(
            extendedCode: sqlite3_extended_errcode(handle), message: String(cString: sqlite3_errmsg(handle)), sql: sql)
    }
}
