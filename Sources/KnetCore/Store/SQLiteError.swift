import CSQLite

/// What SQLite refused.
struct SQLiteError: Error, CustomStringConvertible {
    /// The extended result code (https://www.sqlite.org/rescode.html), as `SQLITE_IOERR_WRITE`.
    let extendedCode: Int32
    /// SQLite's own words.
    let message: String
    /// The statement, where there was one.
    var sql: String?

    /// The code without its details, as `SQLITE_IOERR`.
    var code: Int32 { extendedCode & 0xFF }

    var description: String {
        "SQLite error \(extendedCode): \(message)" + (sql.map { " - while executing `\($0)`" } ?? "")
    }
}
