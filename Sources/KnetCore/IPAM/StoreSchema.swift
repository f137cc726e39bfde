/// The store's tables, and how those of an earlier version become the present ones.
enum StoreSchema {
    /// Applies in one transaction what the store has not seen yet.
    ///
    /// Which migrations it has seen is in the table that GRDB keeps, the library that knetd used at first: so a store of that time is
    /// known for what it is, and a knetd of that time can go on with a store of ours.
    static func migrate(_ database: SQLiteDatabase) throws {
        try database.transaction(.write) { database in
            try database.run("CREATE TABLE IF NOT EXISTS grdb_migrations (identifier TEXT NOT NULL PRIMARY KEY)")
            let applied = Set(try database.all("SELECT identifier FROM grdb_migrations") { $0.text(0) })
            for (identifier, script) in migrations where !applied.contains(identifier) {
                try database.script(script)
                try database.run("INSERT INTO grdb_migrations (identifier) VALUES (?)", [identifier])
            }
        }
    }

    /// In their order; what has been released is never edited.
    private static let migrations: [(identifier: String, script: String)] = [
        (
            "1",
            """
            CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
            CREATE TABLE attachment (
                containerID TEXT NOT NULL, interface TEXT NOT NULL, network TEXT NOT NULL,
                podNamespace TEXT, podName TEXT, namespacePath TEXT NOT NULL,
                namespaceCookie INTEGER NOT NULL, complete INTEGER NOT NULL,
                PRIMARY KEY (containerID, interface)) WITHOUT ROWID;
            CREATE TABLE address (
                address TEXT PRIMARY KEY, containerID TEXT NOT NULL, interface TEXT NOT NULL,
                FOREIGN KEY (containerID, interface) REFERENCES attachment ON DELETE CASCADE) WITHOUT ROWID;
            CREATE INDEX addressOwner ON address (containerID, interface);
            CREATE TABLE range (cidr TEXT PRIMARY KEY, lastUsed TEXT NOT NULL) WITHOUT ROWID;
            CREATE TABLE released (sequence INTEGER PRIMARY KEY AUTOINCREMENT, address TEXT NOT NULL UNIQUE);
            """
        ),
        (
            "2",
            """
            ALTER TABLE attachment RENAME COLUMN complete TO phase;
            ALTER TABLE attachment ADD COLUMN options TEXT;
            CREATE TABLE hostPort (
                transport TEXT NOT NULL, port INTEGER NOT NULL, address TEXT, containerID TEXT NOT NULL,
                interface TEXT NOT NULL,
                FOREIGN KEY (containerID, interface) REFERENCES attachment ON DELETE CASCADE);
            CREATE INDEX hostPortNumber ON hostPort (port, transport);
            CREATE INDEX hostPortOwner ON hostPort (containerID, interface);
            """
        ),
    ]
}
