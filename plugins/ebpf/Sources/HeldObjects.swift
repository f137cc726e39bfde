import CBPF
import FoundationEssentials
import Glibc
import KnetLinux

/// What outlasts the process: pinned in a BPF filesystem below knetd's folder in /run, and with systemd, whose services have mounts
/// of their own, in its descriptor store. A container that may not mount holds it as long as it runs.
struct HeldObjects: Sendable {
    private let path: String
    private let kept: KeptDescriptors
    /// Why nothing can be pinned.
    let fault: String?

    private static let prefix = "bpf-"

    /// - Parameter runDirectory: `agent.runDirectory`.
    init(runDirectory: String, kept: KeptDescriptors) {
        let folder = "\(runDirectory)/bpf"
        self.kept = kept
        if mkdir(folder, 0o700) != 0, errno != EEXIST {
            path = folder
            fault = "\(SystemError("make \(folder)"))"
            return
        }
        path = Self.canonical(folder)
        do {
            if !Self.isMounted(path) { try Mount.add("bpf", at: path, options: "mode=0700") }
            fault = nil
        } catch {
            fault = "\(error)"
        }
    }

    /// As the kernel names mounts.
    private static func canonical(_ path: String) -> String {
        guard let found = realpath(path, nil) else { return path }
        defer { free(found) }
        return String(cString: found)
    }

    /// Where the nodes' folders of `deploy/overlays/ebpf` are, as far as this process sees any.
    static var folders: [String] {
        Mount.all().filter { $0.type == "bpf" && $0.root == "/" }.map { "\($0.path)/knetd" }
    }

    private static func isMounted(_ path: String) -> Bool {
        Mount.all().contains { $0.path == path && $0.type == "bpf" }
    }

    /// What is held under the name.
    func get(_ name: String) -> SharedDescriptor? {
        if let held = kept[Self.prefix + name] { return held }
        let number = bpf_obj_get("\(path)/\(name)")
        return number < 0 ? nil : SharedDescriptor(Descriptor(owning: number))
    }

    /// Holds an object in the place of what is held under the name.
    func hold(_ object: SharedDescriptor, as name: String) throws(SystemError) {
        let known = kept[Self.prefix + name]
        if known !== object {
            // systemd holds any number under one name.
            if known != nil { kept.drop(Self.prefix + name) }
            kept.keep(object, as: Self.prefix + name)
        }
        if fault != nil { return }
        // Whoever ends in between leaves the old one or the new one.
        let new = "\(path)/\(name)-new"
        unlink(new)
        try BPF.check("pin \(new)", bpf_obj_pin(object.number, new))
        try syscall("rename \(new)") { rename(new, "\(path)/\(name)") }
    }

    /// Lets go of everything.
    static func remove(runDirectory: String, kept: KeptDescriptors) {
        for name in kept.names(prefix: prefix) { kept.drop(name) }
        let path = canonical("\(runDirectory)/bpf")
        guard isMounted(path) else { return }
        // Another mount namespace may have it mounted too.
        for name in (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? [] { unlink("\(path)/\(name)") }
        Mount.remove(path)
        rmdir(path)
    }
}
