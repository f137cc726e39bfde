import KnetCore

/// The passwords of sessions, each the first line of a file.
struct Passwords {
    /// By the files' paths; those that could not be read are missing.
    private(set) var texts: [String: String] = [:]
    private(set) var faults: [String] = []
    private var stamps: [String: FileStamp?] = [:]

    init() {}

    init(files: Set<String>) {
        for file in files.sorted() {
            // Before it is read, or a change meanwhile would not be seen.
            stamps[file] = .some(FileStamp(path: file))
            do {
                let text = String(decoding: try contents(ofFile: file), as: UTF8.self)
                texts[file] = text.split(whereSeparator: \.isNewline).first.map { String($0) }
                if texts[file] == nil { faults.append("the password in \(file) is empty") }
            } catch { faults.append("the password in \(file) cannot be read: \(error)") }
        }
    }

    /// Whether the files are as they were read.
    var areCurrent: Bool { stamps.allSatisfy { $0.value == FileStamp(path: $0.key) } }
}
