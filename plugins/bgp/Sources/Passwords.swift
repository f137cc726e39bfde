import KnetCore

/// The passwords of sessions, each the first line of a file.
struct Passwords {
    /// By the files' paths; those that could not be read are missing.
    private(set) var texts: [String: String] = [:]
    private(set) var faults: [String] = []
    private var stamps: [String: FileStamp?] = [:]
    /// Files that had a password when they were last read: they may be about to be written.
    private var doubtful: Set<String> = []

    init() {}

    /// - Parameter before: as they were. A file that has no password now keeps its old one until it is looked at again.
    init(files: Set<String>, after before: Passwords) {
        for file in files.sorted() {
            // Before it is read, or a change meanwhile would not be seen.
            stamps[file] = .some(FileStamp(path: file))
            let fault: String
            do {
                let text = String(decoding: try contents(ofFile: file), as: UTF8.self)
                if let password = text.split(whereSeparator: \.isNewline).first {
                    texts[file] = String(password)
                    continue
                }
                fault = "the password in \(file) is empty"
            } catch { fault = "the password in \(file) cannot be read: \(error)" }
            if let old = before.texts[file], !before.doubtful.contains(file) {
                texts[file] = old
                doubtful.insert(file)
            } else {
                faults.append(fault)
            }
        }
    }

    /// Whether the files are as they were read.
    var areCurrent: Bool { doubtful.isEmpty && stamps.allSatisfy { $0.value == FileStamp(path: $0.key) } }
}
