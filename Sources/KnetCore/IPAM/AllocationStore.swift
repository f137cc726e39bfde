import FoundationEssentials
import GRDB

/// The durable record of who has which address, in SQLite. It is knetd's own truth: everything else can be read from
/// the cluster or the kernel. Every method is one transaction and blocks; call it from a blocking executor.
public final class AllocationStore: Sendable {
    private let database: DatabaseQueue
    private let path: String

    /// Attachments of an earlier boot that opening the store forgot.
    public let voidedByReboot: Int

    /// Opens or creates the store.
    /// - Parameters:
    ///   - path: the file; its folder exists.
    ///   - bootID: `/proc/sys/kernel/random/boot_id`. Allocations of another boot are void: their namespaces are gone.
    public init(path: String, bootID: String) throws {
        self.path = path
        var options = GRDB.Configuration()
        options.busyMode = .timeout(5)
        options.prepareDatabase { database in
            // Surviving a kill of the process is enough: a power cut is a reboot, which voids everything. NORMAL keeps
            // the file whole even then.
            try database.execute(sql: "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
        }
        database = try DatabaseQueue(path: path, configuration: options)
        try Self.migrator.migrate(database)
        guard try database.read({ try String.fetchOne($0, sql: "PRAGMA quick_check(1)") }) == "ok" else {
            throw DatabaseError(resultCode: .SQLITE_CORRUPT, message: "quick_check found damage")
        }
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
    /// - Parameter requested: addresses that it must get in the place of its range's next.
    /// - Throws: `RangeExhausted` or `AlreadyTaken`; nothing is recorded then.
    public func reserve(
        _ attachment: Attachment, from ranges: [AddressRange], requested: [IPAddress] = []
    ) throws -> Attachment {
        try write { database in
            var attachment = attachment
            try Self.insert(attachment, phase: .reserved, in: database)
            for range in ranges {
                let wanted = requested.first { $0.family == range.cidr.family }
                let address = try wanted ?? Self.takeAddress(of: range, in: database)
                if let holder = try Self.holder(of: address, in: database) {
                    throw AlreadyTaken(what: "address \(address)", holder: holder)
                }
                try Self.insert(address, of: attachment.id, in: database)
                attachment.addresses.append(address)
            }
            for hostPort in attachment.options.hostPorts {
                if let holder = try Self.holder(of: hostPort, in: database) {
                    throw AlreadyTaken(what: "host port \(hostPort)", holder: holder)
                }
            }
            try Self.insert(attachment.options.hostPorts, of: attachment.id, in: database)
            return attachment
        }
    }

    /// Takes in attachments that the kernel has and the store does not: those of a store that was lost. A record of
    /// another attachment, one that the kernel does not have, gives way to them.
    /// - Returns: the number of attachments taken in.
    public func adopt(_ present: [Attachment]) throws -> Int {
        try write { database in
            let known = Set(try Self.attachments(database, where: "", []).map(\.id))
            let alive = Set(present.map(\.id))
            let lost = present.filter { !known.contains($0.id) }
            for attachment in lost {
                for address in attachment.addresses {
                    if let holder = try Self.holder(of: address, in: database), !alive.contains(holder) {
                        try Self.delete(holder, in: database)
                    }
                }
                try Self.insert(attachment, phase: .attached, in: database)
                for address in attachment.addresses where try !Self.isTaken(address, in: database) {
                    try Self.insert(address, of: attachment.id, in: database)
                }
                try Self.insert(attachment.options.hostPorts, of: attachment.id, in: database)
            }
            return lost.count
        }
    }

    /// Marks the attachment as answered to the runtime.
    public func complete(_ id: AttachmentID) throws {
        try write { try Self.set(.attached, id, in: $0) }
    }

    /// Marks the attachment as gone for the runtime: its host ports are free, its addresses are not yet.
    public func leave(_ id: AttachmentID) throws {
        try write { database in
            try Self.set(.leaving, id, in: database)
            try database.execute(
                sql: "DELETE FROM hostPort WHERE containerID = ? AND interface = ?",
                arguments: [id.containerID, id.interface])
        }
    }

    /// Forgets the attachments and frees their addresses; one that is not there is no error.
    public func release(_ ids: [AttachmentID]) throws {
        try write { database in
            for id in ids { try Self.delete(id, in: database) }
            // A range of IPv6 is never used up, and what it gave back would pile up for ever.
            try database.execute(
                sql: "DELETE FROM released WHERE sequence <= (SELECT max(sequence) FROM released) - ?",
                arguments: [Self.mostReleased])
        }
    }

    /// Freed addresses that are remembered, the last ones: as many as an IPv4 /16 has.
    private static let mostReleased = 65_536

    public func attachment(_ id: AttachmentID) throws -> Attachment? {
        try read { database in
            try Self.attachments(
                database, where: "WHERE containerID = ? AND interface = ?", [id.containerID, id.interface]
            ).first
        }
    }

    public func attachments() throws -> [Attachment] {
        try read { try Self.attachments($0, where: "ORDER BY containerID, interface", []) }
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
            let options = try (row["options"] as String?).map {
                try JSONDecoder().decode(AttachmentOptions.self, from: Data($0.utf8))
            }
            return Attachment(
                id: id, network: row["network"], podNamespace: row["podNamespace"], podName: row["podName"],
                namespacePath: row["namespacePath"], namespaceCookie: UInt64(bitPattern: row["namespaceCookie"]),
                options: options ?? AttachmentOptions(), addresses: options?.chained?.addresses ?? addresses,
                phase: Attachment.Phase(rawValue: row["phase"]) ?? .reserved)
        }
    }

    private func write<Result>(_ body: (Database) throws -> Result) throws -> Result {
        do {
            CrashPoint.pass()
            let result = try database.write(body)
            CrashPoint.pass()
            return result
        } catch let error as DatabaseError {
            throw StoreFailure(path, error)
        }
    }

    private func read<Result>(_ body: (Database) throws -> Result) throws -> Result {
        do { return try database.read(body) } catch let error as DatabaseError { throw StoreFailure(path, error) }
    }

    // MARK: Rows

    private static func insert(_ attachment: Attachment, phase: Attachment.Phase, in database: Database) throws {
        let id = attachment.id
        let options =
            attachment.options == AttachmentOptions()
            ? nil : String(decoding: try JSONEncoder().encode(attachment.options), as: UTF8.self)
        try database.execute(
            sql: """
                INSERT INTO attachment (containerID, interface, network, podNamespace, podName, namespacePath,
                    namespaceCookie, phase, options) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
            arguments: [
                id.containerID, id.interface, attachment.network, attachment.podNamespace, attachment.podName,
                attachment.namespacePath, Int64(bitPattern: attachment.namespaceCookie), phase.rawValue, options,
            ])
    }

    private static func insert(_ address: IPAddress, of id: AttachmentID, in database: Database) throws {
        try database.execute(
            sql: "INSERT INTO address (address, containerID, interface) VALUES (?, ?, ?)",
            arguments: [address.description, id.containerID, id.interface])
    }

    private static func insert(_ hostPorts: [HostPort], of id: AttachmentID, in database: Database) throws {
        for hostPort in hostPorts {
            try database.execute(
                sql: "INSERT INTO hostPort (transport, port, address, containerID, interface) VALUES (?, ?, ?, ?, ?)",
                arguments: [
                    hostPort.transport.rawValue, Int(hostPort.port), hostPort.address?.description, id.containerID,
                    id.interface,
                ])
        }
    }

    private static func set(_ phase: Attachment.Phase, _ id: AttachmentID, in database: Database) throws {
        try database.execute(
            sql: "UPDATE attachment SET phase = ? WHERE containerID = ? AND interface = ?",
            arguments: [phase.rawValue, id.containerID, id.interface])
    }

    /// Deletes an attachment and all that belongs to it.
    private static func delete(_ id: AttachmentID, in database: Database) throws {
        let owner: StatementArguments = [id.containerID, id.interface]
        try database.execute(
            sql: """
                INSERT OR REPLACE INTO released (address)
                SELECT address FROM address WHERE containerID = ? AND interface = ?
                """, arguments: owner)
        try database.execute(sql: "DELETE FROM attachment WHERE containerID = ? AND interface = ?", arguments: owner)
    }

    /// Who has a host port that would take the same packets.
    private static func holder(of hostPort: HostPort, in database: Database) throws -> AttachmentID? {
        try Row.fetchAll(
            database, sql: "SELECT * FROM hostPort WHERE transport = ? AND port = ?",
            arguments: [hostPort.transport.rawValue, Int(hostPort.port)]
        ).first { row in
            let other = HostPort(
                transport: hostPort.transport, port: hostPort.port, podPort: 0,
                address: (row["address"] as String?).flatMap { IPAddress($0) })
            return other.conflicts(with: hostPort)
        }.map { AttachmentID(containerID: $0["containerID"], interface: $0["interface"]) }
    }

    private static func holder(of address: IPAddress, in database: Database) throws -> AttachmentID? {
        try Row.fetchOne(
            database, sql: "SELECT containerID, interface FROM address WHERE address = ?",
            arguments: [address.description]
        ).map { AttachmentID(containerID: $0["containerID"], interface: $0["interface"]) }
    }

    // MARK: Rotation

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
        migrator.registerMigration("2") { database in
            try database.execute(
                sql: """
                    ALTER TABLE attachment RENAME COLUMN complete TO phase;
                    ALTER TABLE attachment ADD COLUMN options TEXT;
                    CREATE TABLE hostPort (
                        transport TEXT NOT NULL, port INTEGER NOT NULL, address TEXT, containerID TEXT NOT NULL,
                        interface TEXT NOT NULL,
                        FOREIGN KEY (containerID, interface) REFERENCES attachment ON DELETE CASCADE);
                    CREATE INDEX hostPortNumber ON hostPort (port, transport);
                    CREATE INDEX hostPortOwner ON hostPort (containerID, interface);
                    """)
        }
        return migrator
    }
}

/// An address or host port that another attachment has.
public struct AlreadyTaken: Error, CustomStringConvertible {
    public let what: String
    public let holder: AttachmentID
    public var description: String { "\(what) is taken by \(holder)" }
}
