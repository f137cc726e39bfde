import CSQLite
import FoundationEssentials

/// The durable record of who has which address, in SQLite. It is knetd's own truth: everything else can be read from
/// the cluster or the kernel. Every method is one transaction and blocks; call it from a blocking executor.
public final class AllocationStore: Sendable {
    private let database: SQLiteDatabase
    private let path: String

    /// Attachments of an earlier boot that opening the store forgot.
    public let voidedByReboot: Int

    /// Opens or creates the store.
    /// - Parameters:
    ///   - path: the file; its folder exists.
    ///   - bootID: `/proc/sys/kernel/random/boot_id`. Allocations of another boot are void: their namespaces are gone.
    public init(path: String, bootID: String) throws {
        self.path = path
        // Surviving a kill of the process is enough: a power cut is a reboot, which voids everything. NORMAL keeps the
        // file whole even then.
        database = try SQLiteDatabase(
            path: path, busyTimeout: 5000,
            settings: "PRAGMA foreign_keys = ON; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
        try StoreSchema.migrate(database)
        try database.transaction(.read) { database in
            guard try database.first("PRAGMA quick_check(1)", [], { $0.text(0) }) == "ok" else {
                throw SQLiteError(extendedCode: SQLITE_CORRUPT, message: "quick_check found damage")
            }
        }
        voidedByReboot = try database.transaction(.write) { database in
            let known = try database.first("SELECT value FROM meta WHERE key = 'bootID'") { $0.text(0) }
            guard known != bootID else { return 0 }
            let count = try database.first("SELECT count(*) FROM attachment") { Int($0.integer(0)) } ?? 0
            try database.run("INSERT OR REPLACE INTO released (address) SELECT address FROM address")
            try database.run("DELETE FROM attachment")
            try database.run("INSERT OR REPLACE INTO meta VALUES ('bootID', ?)", [bootID])
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
            try database.run("DELETE FROM hostPort WHERE containerID = ? AND interface = ?", Self.key(id))
        }
    }

    /// Forgets the attachments and frees their addresses; one that is not there is no error.
    public func release(_ ids: [AttachmentID]) throws {
        try write { database in
            for id in ids { try Self.delete(id, in: database) }
            // A range of IPv6 is never used up, and what it gave back would pile up for ever.
            try database.run(
                "DELETE FROM released WHERE sequence <= (SELECT max(sequence) FROM released) - ?", [Self.mostReleased])
        }
    }

    /// Freed addresses that are remembered, the last ones: as many as an IPv4 /16 has.
    private static let mostReleased = 65_536

    public func attachment(_ id: AttachmentID) throws -> Attachment? {
        try read { database in
            try Self.attachments(database, where: "WHERE containerID = ? AND interface = ?", Self.key(id)).first
        }
    }

    public func attachments() throws -> [Attachment] {
        try read { try Self.attachments($0, where: "ORDER BY containerID, interface", []) }
    }

    private static func attachments(
        _ database: SQLiteConnection, where condition: String, _ values: [any SQLiteValue]
    ) throws -> [Attachment] {
        let columns =
            "containerID, interface, network, podNamespace, podName, namespacePath, namespaceCookie, phase, options"
        return try database.all("SELECT \(columns) FROM attachment \(condition)", values) { row in
            let id = AttachmentID(containerID: row.text(0), interface: row.text(1))
            let addresses = try database.all(
                "SELECT address FROM address WHERE containerID = ? AND interface = ?", key(id)
            ) { IPAddress($0.text(0)) }.compactMap { $0 }.sorted()
            let options = try row.optionalText(8).map {
                try JSONDecoder().decode(AttachmentOptions.self, from: Data($0.utf8))
            }
            return Attachment(
                id: id, network: row.text(2), podNamespace: row.optionalText(3), podName: row.optionalText(4),
                namespacePath: row.text(5), namespaceCookie: UInt64(bitPattern: row.integer(6)),
                options: options ?? AttachmentOptions(), addresses: options?.chained?.addresses ?? addresses,
                phase: Attachment.Phase(rawValue: Int(row.integer(7))) ?? .reserved)
        }
    }

    private func write<Result: Sendable>(_ body: (SQLiteConnection) throws -> Result) throws -> Result {
        CrashPoint.pass()
        let result = try transaction(.write, body)
        CrashPoint.pass()
        return result
    }

    private func read<Result: Sendable>(_ body: (SQLiteConnection) throws -> Result) throws -> Result {
        try transaction(.read, body)
    }

    private func transaction<Result: Sendable>(
        _ access: SQLiteDatabase.Access, _ body: (SQLiteConnection) throws -> Result
    ) throws -> Result {
        do { return try database.transaction(access, body) } catch let error as SQLiteError {
            throw StoreFailure(path, error)
        }
    }

    // MARK: Rows

    /// What `containerID = ? AND interface = ?` asks for.
    private static func key(_ id: AttachmentID) -> [any SQLiteValue] { [id.containerID, id.interface] }

    private static func insert(_ attachment: Attachment, phase: Attachment.Phase, in database: SQLiteConnection) throws
    {
        let id = attachment.id
        let options =
            attachment.options == AttachmentOptions()
            ? nil : String(decoding: try JSONEncoder().encode(attachment.options), as: UTF8.self)
        try database.run(
            """
            INSERT INTO attachment (containerID, interface, network, podNamespace, podName, namespacePath,
                namespaceCookie, phase, options) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            [
                id.containerID, id.interface, attachment.network, attachment.podNamespace, attachment.podName,
                attachment.namespacePath, Int64(bitPattern: attachment.namespaceCookie), phase.rawValue, options,
            ])
    }

    private static func insert(_ address: IPAddress, of id: AttachmentID, in database: SQLiteConnection) throws {
        try database.run(
            "INSERT INTO address (address, containerID, interface) VALUES (?, ?, ?)",
            [address.description, id.containerID, id.interface])
    }

    private static func insert(_ hostPorts: [HostPort], of id: AttachmentID, in database: SQLiteConnection) throws {
        for hostPort in hostPorts {
            try database.run(
                "INSERT INTO hostPort (transport, port, address, containerID, interface) VALUES (?, ?, ?, ?, ?)",
                [
                    hostPort.transport.rawValue, Int(hostPort.port), hostPort.address?.description, id.containerID,
                    id.interface,
                ])
        }
    }

    private static func set(
        _ phase: Attachment.Phase, _ id: AttachmentID, in database: SQLiteConnection
    ) throws {
        try database.run(
            "UPDATE attachment SET phase = ? WHERE containerID = ? AND interface = ?",
            [phase.rawValue, id.containerID, id.interface])
    }

    /// Deletes an attachment and all that belongs to it.
    private static func delete(_ id: AttachmentID, in database: SQLiteConnection) throws {
        try database.run(
            """
            INSERT OR REPLACE INTO released (address)
            SELECT address FROM address WHERE containerID = ? AND interface = ?
            """, key(id))
        try database.run("DELETE FROM attachment WHERE containerID = ? AND interface = ?", key(id))
    }

    /// Who has a host port that would take the same packets.
    private static func holder(of hostPort: HostPort, in database: SQLiteConnection) throws -> AttachmentID? {
        try database.first(
            "SELECT address, containerID, interface FROM hostPort WHERE transport = ? AND port = ?",
            [hostPort.transport.rawValue, Int(hostPort.port)]
        ) { row in
            let other = HostPort(
                transport: hostPort.transport, port: hostPort.port, podPort: 0,
                address: row.optionalText(0).flatMap { IPAddress($0) })
            guard other.conflicts(with: hostPort) else { return nil }
            return AttachmentID(containerID: row.text(1), interface: row.text(2))
        }
    }

    private static func holder(of address: IPAddress, in database: SQLiteConnection) throws -> AttachmentID? {
        try database.first("SELECT containerID, interface FROM address WHERE address = ?", [address.description]) {
            AttachmentID(containerID: $0.text(0), interface: $0.text(1))
        }
    }

    // MARK: Rotation

    /// The range's next address.
    private static func takeAddress(of range: AddressRange, in database: SQLiteConnection) throws -> IPAddress {
        if let fresh = try neverUsed(of: range, in: database) {
            try database.run(
                "INSERT OR REPLACE INTO range (cidr, lastUsed) VALUES (?, ?)",
                [range.cidr.description, fresh.description])
            return fresh
        }
        let freed = try database.first("SELECT address FROM released ORDER BY sequence") { row -> IPAddress? in
            guard let address = IPAddress(row.text(0)), range.cidr.contains(address), address >= range.first,
                address <= range.last
            else { return nil }
            try database.run("DELETE FROM released WHERE address = ?", [row.text(0)])
            return try isTaken(address, in: database) ? nil : address
        }
        if let freed { return freed }
        // Addresses that neither table knows, as after a change of ranges and back: the range begins anew, once.
        var number = range.first.number
        while number <= range.last.number {
            let address = IPAddress(range.cidr.family, number: number)
            if try !isTaken(address, in: database) { return address }
            number += 1
        }
        let used = try database.all("SELECT address FROM address") { IPAddress($0.text(0)) }
            .count { $0.map(range.cidr.contains) ?? false }
        throw RangeExhausted(cidr: range.cidr, inUse: used)
    }

    private static func neverUsed(of range: AddressRange, in database: SQLiteConnection) throws -> IPAddress? {
        let lastUsed = try database.first("SELECT lastUsed FROM range WHERE cidr = ?", [range.cidr.description]) {
            IPAddress($0.text(0))
        }
        var number = lastUsed.map { $0.number + 1 } ?? range.first.number
        while number <= range.last.number {
            let address = IPAddress(range.cidr.family, number: number)
            if try !isTaken(address, in: database) { return address }
            number += 1
        }
        return nil
    }

    private static func isTaken(_ address: IPAddress, in database: SQLiteConnection) throws -> Bool {
        try database.first("SELECT 1 FROM address WHERE address = ?", [address.description]) { _ in true } ?? false
    }
}

/// An address or host port that another attachment has.
public struct AlreadyTaken: Error, CustomStringConvertible {
    public let what: String
    public let holder: AttachmentID
    public var description: String { "\(what) is taken by \(holder)" }
}
