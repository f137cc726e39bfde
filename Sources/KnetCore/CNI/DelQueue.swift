import FoundationEssentials
import Glibc

/// DELs that came while no daemon ran: a file for each beside the daemon's socket. The runtime is told that the pod is gone,
/// so that it can go on; the daemon takes the rest away when it is back. A reboot, which empties that directory, voids
/// all attachments too.
public struct DelQueue: Sendable {
    private let directory: String

    public init(runDirectory: String) { directory = "\(runDirectory)/pending-del" }

    /// Records a DEL; once more is no error.
    /// - Throws: where the directory cannot be written; the runtime must then try again.
    public func add(_ id: AttachmentID) throws {
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        try JSONEncoder().encode(id).write(to: URL(fileURLWithPath: path(of: id)), options: .atomic)
    }

    /// What is recorded. A file that is not one of ours is passed over.
    public var pending: [AttachmentID] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
        return names.sorted().compactMap { name in
            (try? contents(ofFile: "\(directory)/\(name)")).flatMap {
                try? JSONDecoder().decode(AttachmentID.self, from: $0)
            }
        }
    }

    public func contains(_ id: AttachmentID) -> Bool { FileManager.default.fileExists(atPath: path(of: id)) }

    /// Forgets a DEL that was done.
    public func remove(_ id: AttachmentID) { unlink(path(of: id)) }

    private func path(of id: AttachmentID) -> String {
        "\(directory)/\(String(StableHash.of(id.description), radix: 16)).json"
    }
}
