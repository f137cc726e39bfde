import CSQLite
import FoundationEssentials
import Testing

@testable import KnetCore

@Suite struct SQLiteTests {
    private let path =
        "\(FileManager.default.temporaryDirectory.path)/knetd-sqlite-\(UInt64.random(in: 0...UInt64.max)).db"

    private func open(busyTimeout: Int32 = 0) throws -> SQLiteDatabase {
        try SQLiteDatabase(path: path, busyTimeout: busyTimeout, settings: "PRAGMA journal_mode = WAL")
    }

    @Test func valuesComeBackAsTheyWent() throws {
        try open().transaction(.write) { database in
            try database.run("CREATE TABLE t (a, b, c, d, e)")
            try database.run(
                "INSERT INTO t VALUES (?, ?, ?, ?, ?)",
                [Int64.min, "gr\u{fc}n\0\u{5024}", "", [UInt8]([0, 255]), nil as String?])
            let row = try database.first("SELECT * FROM t") { row in
                (row.integer(0), row.text(1), row.optionalText(2), row.blob(3), row.optionalText(4), row.isNull(4))
            }
            let found = try #require(row)
            #expect(found == (Int64.min, "gr\u{fc}n\0\u{5024}", "", [0, 255], nil, true))
            #expect(try database.first("SELECT typeof(?)", [[UInt8]()]) { $0.text(0) } == "blob")
        }
    }

    @Test func aStatementMayRunWithinItself() throws {
        try open().transaction(.write) { database in
            try database.script("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2), (3)")
            let pairs = try database.all("SELECT a FROM t ORDER BY a") { outer in
                let inner = try database.all("SELECT a FROM t ORDER BY a") { $0.integer(0) }
                return "\(outer.integer(0))\(inner)"
            }
            #expect(pairs == ["1[1, 2, 3]", "2[1, 2, 3]", "3[1, 2, 3]"])
        }
    }

    @Test func valuesDoNotStayWithAStatement() throws {
        try open().transaction(.read) { database throws in
            #expect(try database.first("SELECT ?", ["x"]) { $0.optionalText(0) ?? "none" } == "x")
            #expect(try database.first("SELECT ?") { $0.optionalText(0) ?? "none" } == "none")
        }
    }

    @Test func ofATransactionThatThrowsNothingStays() throws {
        struct Stop: Error {}
        let database = try open()
        try database.transaction(.write) { try $0.script("CREATE TABLE t (a UNIQUE)") }
        #expect(throws: Stop.self) {
            try database.transaction(.write) { database in
                try database.run("INSERT INTO t VALUES (1)")
                throw Stop()
            }
        }
        let error = #expect(throws: SQLiteError.self) {
            try database.transaction(.write) { database in
                try database.run("INSERT INTO t VALUES (2)")
                try database.run("INSERT INTO t VALUES (2)")
            }
        }
        #expect(error?.code == SQLITE_CONSTRAINT && error?.extendedCode == SQLITE_CONSTRAINT | 8 << 8)
        #expect(error?.description.contains("UNIQUE constraint failed: t.a") == true)
        #expect(try database.transaction(.read) { try $0.first("SELECT count(*) FROM t") { $0.integer(0) } } == 0)
    }

    @Test func anotherConnectionsLockIsWaitedForAndThenReported() throws {
        let (one, two) = (try open(), try open(busyTimeout: 50))
        try one.transaction(.write) { _ in
            let begin = ContinuousClock.now
            let error = #expect(throws: SQLiteError.self) { try two.transaction(.write) { _ in } }
            #expect(error?.code == SQLITE_BUSY)
            #expect(ContinuousClock.now - begin >= .milliseconds(40))
        }
        try two.transaction(.write) { _ in }
    }

    @Test func whatCannotBeOpenedSaysWhy() {
        let error = #expect(throws: SQLiteError.self) {
            try SQLiteDatabase(path: "/proc/none/x.db", busyTimeout: 0, settings: "")
        }
        #expect(error?.code == SQLITE_CANTOPEN)
        #expect(error?.description.contains("unable to open database file") == true)
    }

    @Test func aFileThatIsNoDatabaseIsToldFromOthers() throws {
        try Data(repeating: 0x5A, count: 5000).write(to: URL(fileURLWithPath: path))
        let error = #expect(throws: SQLiteError.self) { try open() }
        #expect(error?.code == SQLITE_NOTADB)
    }
}

/// Stores that earlier versions left.
@Suite struct StoreSchemaTests {
    private let path =
        "\(FileManager.default.temporaryDirectory.path)/knetd-schema-\(UInt64.random(in: 0...UInt64.max)).db"

    /// The script of the first version's tables, with GRDB's note of it and one pod.
    private static let first = """
        CREATE TABLE grdb_migrations (identifier TEXT NOT NULL PRIMARY KEY);
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
        INSERT INTO grdb_migrations VALUES ('1');
        INSERT INTO meta VALUES ('bootID', 'boot-1');
        INSERT INTO attachment VALUES ('c1', 'eth0', 'net', 'shop', 'web', '/netns/c1', -1, 1);
        INSERT INTO address VALUES ('10.42.1.1', 'c1', 'eth0');
        INSERT INTO range VALUES ('10.42.1.0/24', '10.42.1.2');
        INSERT INTO released (address) VALUES ('10.42.1.2');
        """

    private static let second = """
        ALTER TABLE attachment RENAME COLUMN complete TO phase;
        ALTER TABLE attachment ADD COLUMN options TEXT;
        CREATE TABLE hostPort (
            transport TEXT NOT NULL, port INTEGER NOT NULL, address TEXT, containerID TEXT NOT NULL,
            interface TEXT NOT NULL,
            FOREIGN KEY (containerID, interface) REFERENCES attachment ON DELETE CASCADE);
        CREATE INDEX hostPortNumber ON hostPort (port, transport);
        CREATE INDEX hostPortOwner ON hostPort (containerID, interface);
        INSERT INTO grdb_migrations VALUES ('2');
        INSERT INTO hostPort VALUES ('tcp', 8080, NULL, 'c1', 'eth0');
        """

    @Test(arguments: [first, first + second]) func aStoreOfGRDBIsGoneOnWith(script: String) throws {
        try SQLiteConnection(path: path, busyTimeout: 0).script("PRAGMA journal_mode = WAL; " + script)
        let store = try AllocationStore(path: path, bootID: "boot-1")
        #expect(store.voidedByReboot == 0)
        let pod = try #require(try store.attachments().first)
        #expect(pod.id == AttachmentID(containerID: "c1", interface: "eth0"))
        #expect(pod.podNamespace == "shop" && pod.podName == "web" && pod.namespaceCookie == UInt64.max)
        #expect(pod.addresses.map(\.description) == ["10.42.1.1"] && pod.phase == .attached)
        let next = try store.reserve(
            Attachment(
                id: AttachmentID(containerID: "c2", interface: "eth0"), network: "net", podNamespace: nil,
                podName: nil, namespacePath: "/netns/c2", namespaceCookie: 7),
            from: [AddressRange(try CIDR.parse("10.42.1.0/24"))])
        #expect(next.addresses.map(\.description) == ["10.42.1.3"], "the rotation goes on")
        try store.release([pod.id])
        #expect(try store.attachments().map(\.id.containerID) == ["c2"])
        let left = try SQLiteConnection(path: path, busyTimeout: 0)
            .all("SELECT address FROM address UNION ALL SELECT containerID FROM hostPort") { $0.text(0) }
        #expect(left == ["10.42.1.3"], "what belonged to the pod went with it")
    }

    @Test func bothWaysLeadToTheSameTables() throws {
        func tables(_ path: String) throws -> [String] {
            try SQLiteConnection(path: path, busyTimeout: 0)
                .all("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name") { $0.text(0) }
                .map { $0.split(whereSeparator: \.isWhitespace).joined(separator: " ") }
        }
        try SQLiteConnection(path: path, busyTimeout: 0).script(Self.first + Self.second)
        _ = try AllocationStore(path: path + "-new", bootID: "boot-1")
        #expect(try tables(path) == tables(path + "-new"))
    }

    @Test func aMigrationThatFailsLeavesTheStoreAsItWas() throws {
        let before = Self.first + "CREATE TABLE hostPort (mine);"
        try SQLiteConnection(path: path, busyTimeout: 0).script(before)
        #expect(throws: SQLiteError.self) { try AllocationStore(path: path, bootID: "boot-1") }
        let left = try SQLiteConnection(path: path, busyTimeout: 0)
        #expect(try left.all("SELECT identifier FROM grdb_migrations") { $0.text(0) } == ["1"])
        #expect(try left.first("SELECT complete FROM attachment") { $0.integer(0) } == 1)
    }
}
