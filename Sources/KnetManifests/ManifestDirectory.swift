import FoundationEssentials
import KnetCore

/// The manifests of one directory, as they were at the last look. Only files that changed are read again.
struct ManifestDirectory {
    private struct File {
        /// Changes with every write: inode, size and modification time.
        let stamp: FileStamp
        let contents: ParsedManifest
    }

    private let path: String
    private var files: [String: File] = [:]
    private(set) var objects: [ObjectKey: AnyClusterObject] = [:]
    private(set) var faults: [ManifestFault] = []

    init(path: String) { self.path = path }

    /// What a look found.
    struct Changes {
        var added: [AnyClusterObject] = []
        var removed: [ObjectKey] = []
        var isEmpty: Bool { added.isEmpty && removed.isEmpty }
    }

    /// Whether a look has succeeded: what is held is all that there is.
    private(set) var isRead = false

    /// Looks at the directory. One that never existed holds nothing; from one that cannot be read, or that went away,
    /// what was held before stays.
    mutating func scan() -> Changes {
        let names: [String]
        do {
            names = try FileManager.default.contentsOfDirectory(atPath: path).filter(Self.isManifest).sorted()
        } catch {
            let isAbsent = !FileManager.default.fileExists(atPath: path)
            if isAbsent, objects.isEmpty {
                isRead = true
            } else {
                let reason = isAbsent ? "does not exist any more" : "cannot be read: \(error)"
                faults = [ManifestFault(place: path, reason: "\(reason); what it held stays in force")]
            }
            return Changes()
        }
        isRead = true
        var seen: [String: File] = [:]
        for name in names {
            guard let stamp = FileStamp(path: "\(path)/\(name)") else { continue }
            if let known = files[name], known.stamp == stamp {
                seen[name] = known
            } else {
                seen[name] = File(stamp: stamp, contents: read(name, known: files[name]?.contents))
            }
        }
        files = seen
        return replaceObjects()
    }

    /// - Parameter known: what the file held before, which stays where it cannot be read now.
    private func read(_ name: String, known: ParsedManifest?) -> ParsedManifest {
        do {
            return ManifestParser.parse(try contents(ofFile: "\(path)/\(name)"), file: name)
        } catch {
            let fault = ManifestFault(place: name, reason: "cannot be read: \(error)")
            return ParsedManifest(objects: known?.objects ?? [], faults: [fault])
        }
    }

    private mutating func replaceObjects() -> Changes {
        var found: [ObjectKey: AnyClusterObject] = [:]
        var places: [ObjectKey: String] = [:]
        faults = []
        for (name, file) in files.sorted(by: { $0.key < $1.key }) {
            faults += file.contents.faults
            for object in file.contents.objects {
                if let first = places[object.key] {
                    faults.append(
                        ManifestFault(place: name, reason: "\(object.key) stands in \(first) too, which counts"))
                } else {
                    places[object.key] = name
                    found[object.key] = object
                }
            }
        }
        for slice in ServiceEndpoints.slices(for: found) { found[slice.key] = .endpointSlice(slice) }
        let changes = Changes(
            added: found.values.filter { objects[$0.key] != $0 }, removed: objects.keys.filter { found[$0] == nil })
        objects = found
        return changes
    }

    static func isManifest(_ name: String) -> Bool {
        !name.hasPrefix(".") && ManifestParser.extensions.contains { name.hasSuffix("." + $0) }
    }
}
