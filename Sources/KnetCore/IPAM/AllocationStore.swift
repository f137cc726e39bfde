import GRDB

/// The durable record of who has which address, in SQLite. It is knetd's own truth: everything else can be read from
/// the cluster or the kernel. Every method is one transaction and blocks; call it from a blocking executor.
public final class AllocationStore: Sendable {
    private let database: DatabaseQueue

    /// What opening the store did to what it held.
    public let voidedByReboot: Int

    /// Opens or creates the store.
    /// - Parameters:
    ///   - path: the file; its folder exists.
    ///   - bootID: `/proc/sys/kernel/random/boot_id`. Allocations of another boot are void: their namespaces are gone.
    public init(path: String, bootID: String) throws {
        var options = GRDB.Configuration()
        options.busyMode = .timeout(5)
        options.prepareDatabase { database in
            // Surviving a kill of the process is enough: a power cut is a reboot, which voids everything. NORMAL keeps
            // the file whole even then.
            try database.execute(sql: "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
        }
        database = try DatabaseQueue(path: path, configuration: options)
        try Self.migrator.migrate(database)
        voidedByReboot = try database.write { database in
            let known = try String.fetchOne(database, sql: "SELECT value FROM meta WHERE key = 'bootID'")
            guard known != bootID else { return 0 }
            let count = try Int.fetchOne(database, sql: "SELECT count(*) FROM attachment") ?? 0
            try database.execute(
                sql: """
                    INSERT OR REPLACE INTO released (address) SELECT address FROM address;
                    DELETE FROM attachment;
                    INSERT OR REPLACE INTO meta VALUES ('bootID', ?)
                    """, arguments: [bootID])
            return count
        }
    }

    /// Records `attachment` with one address of each range. Addresses rotate: first those never used, then the one that
    /// has been free for longest.
    /// - Throws: `RangeExhausted`; nothing is recorded then.
    public func reserve(_ attachment: Attachment, from ranges: [AddressRange]) throws -> Attachment {
        try database.write { database in
            var attachment = attachment
            let id = attachment.id
            try database.execute(
                sql: """
                    INSERT INTO attachment (containerID, interface, network, podNamespace, podName, namespacePath,
                        namespaceCookie, complete) VALUES (?, ?, ?, ?, ?, ?, ?, 0)
                    """,
                arguments: [
                    id.containerID, id.interface, attachment.network, attachment.podNamespace, attachment.podName,
                    attachment.namespacePath, Int64(bitPattern: attachment.namespaceCookie),
                ])
            for range in ranges {
                let address = try Self.takeAddress(of: range, in: database)
                try database.execute(
                    sql: "INSERT INTO address (address, containerID, interface) VALUES (?, ?, ?)",
                    arguments: [address.description, id.containerID, id.interface])
                attachment.addresses.append(address)
            }
            return attachment
        }
    }

    /// Marks the attachment as answered to the runtime.
    public func complete(_ id: AttachmentID) throws {
        try database.write { database in
            try database.execute(
                sql: "UPDATE attachment SET complete = 1 WHERE containerID = ? AND interface = ?",
                arguments: [id.containerID, id.interface])
        }
    }

    /// Forgets the attachment and frees its addresses; one that is not there is no error.
    public func release(_ id: AttachmentID) throws {
        try database.write { database in
            let owner: StatementArguments = [id.containerID, id.interface]
            try database.execute(
                sql: """
                    INSERT OR REPLACE INTO released (address)
                    SELECT address FROM address WHERE containerID = ? AND interface = ?
                    """, arguments: owner)
            try database.execute(
                sql: "DELETE FROM attachment WHERE containerID = ? AND interface = ?", arguments: owner)
            // A range of IPv6 is never used up, and what it gave back would pile up for ever.
            try database.execute(
                sql: "DELETE FROM released WHERE sequence <= (SELECT max(sequence) FROM released) - ?",
                arguments: [Self.mostReleased])
        }
    }

    /// Freed addresses that are remembered, the last ones: as many as an IPv4 /16 has.
    private static let mostReleased = 65_536

    public func attachment(_ id: AttachmentID) throws -> Attachment? {
        try database.read { database in
            try Self.attachments(
                database, where: "WHERE containerID = ? AND interface = ?", [id.containerID, id.interface]
            ).first
        }
    }

    public func attachments() throws -> [Attachment] {
        try database.read { try Self.attachments($0, where: "ORDER BY containerID, interface", []) }
    }

    private static func attachments(
        _ database: Database, where condition: String, _ arguments: StatementArguments
    ) throws -> [Attachment] {
        try Row.fetchAll(database, sql: "SELECT * FROM attachment \(condition)", arguments: arguments).map { row in
            let id = AttachmentID(containerID: row["containerID"], interface: row["interface"])
            let addresses = try String.fetchAll(
                database, sql: "SELECT address FROM address WHERE containerID = ? AND interface = ?",
                arguments: [id.containerID, id.interface]
            ).compactMap { IPAddress($0) }.sorted()
            return Attachment(
                id: id, network: row["network"], podNamespace: row["podNamespace"], podName: row["podName"],
                namespacePath: row["namespacePath"], namespaceCookie: UInt64(bitPattern: row["namespaceCookie"]),
                addresses: addresses, isComplete: row["complete"])
        }
    }

    /// The range's next address.
    private static func takeAddress(of range: AddressRange, in database: Database) throws -> IPAddress {
        if let fresh = try neverUsed(of: range, in: database) {
            try database.execute(
                sql: "INSERT OR REPLACE INTO range (cidr, lastUsed) VALUES (?, ?)",
                arguments: [range.cidr.description, fresh.description])
            return fresh
        }
        let freed = try String.fetchCursor(database, sql: "SELECT address FROM released ORDER BY sequence")
        while let text = try freed.next() {
            guard let address = IPAddress(text), range.cidr.contains(address), address >= range.first,
                address <= range.last
            else { continue }
            try database.execute(sql: "DELETE FROM released WHERE address = ?", arguments: [text])
            if try !isTaken(address, in: database) { return address }
        }
        // Addresses that neither table knows, as after a change of ranges and back: the range begins anew, once.
        var number = range.first.number
        while number <= range.last.number {
            let address = IPAddress(range.cidr.family, number: number)
            if try !isTaken(address, in: database) { return address }
            number += 1
        }
        let used = try String.fetchAll(database, sql: "SELECT address FROM address")
            .count { IPAddress($0).map(range.cidr.contains) ?? false }
        throw RangeExhausted(cidr: range.cidr, inUse: used)
    }

    private static func neverUsed(of range: AddressRange, in database: Database) throws -> IPAddress? {
        let lastUsed = try String.fetchOne(
            database, sql: "SELECT lastUsed FROM range WHERE cidr = ?", arguments: [range.cidr.description]
        ).flatMap { IPAddress($0) }
        var number = lastUsed.map { $0.number + 1 } ?? range.first.number
        while number <= range.last.number {
            let address = IPAddress(range.cidr.family, number: number)
            if try !isTaken(address, in: database) { return address }
            number += 1
        }
        return nil
    }

    private static func isTaken(_ address: IPAddress, in database: Database) throws -> Bool {
        try Bool.fetchOne(
            database, sql: "SELECT EXISTS (SELECT 1 FROM address WHERE address = ?)", arguments: [address.description]
        ) ?? false
    }

    private static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1") { database in
            try database.execute(
                sql: """
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
                    """)
        }
        return migrator
    }
}
