import FoundationEssentials
import KnetCore

/// The node's resolv.conf, read again when it has changed.
struct ResolvConfFile: Sendable {
    private let paths: [String]
    private var stamp: (path: String, stamp: FileStamp)?
    private(set) var contents = ResolvConf()

    /// - Parameter path: empty for the first of those that a node may have.
    init(path: String) { paths = path.isEmpty ? ResolvConf.paths : [path] }

    mutating func readAgain() {
        for path in paths {
            guard let found = FileStamp(path: path) else { continue }
            if let stamp, stamp == (path, found) { return }
            guard let text = try? String(decoding: KnetCore.contents(ofFile: path), as: UTF8.self) else { continue }
            let read = ResolvConf(text)
            // A file that is just being written names nobody.
            if read.servers.isEmpty, path != paths.last { continue }
            stamp = (path, found)
            contents = read
            return
        }
        contents = ResolvConf()
        stamp = nil
    }
}
