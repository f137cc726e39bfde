import KnetLinux
import TestSupport
import Testing

/// Other BPF programs than the embedded ones, for a daemon with `KNETD_BPF_OBJECTS`.
enum ProgramSources {
    /// Compiles a copy of the sources.
    /// - Parameter command: what is done to the copy first, in its folder.
    /// - Returns: `folder`, with the object files.
    static func build(in folder: String, editing command: String = "true") throws -> String {
        let script = """
            set -e
            mkdir -p \(folder)
            cp -r \(Checkout.path)/plugins/ebpf/bpf \(folder)/sources
            cd \(folder)/sources
            \(command)
            for name in path socket; do
                clang -target bpf -mcpu=v2 -O2 -g -I/usr/include/$(uname -m)-linux-gnu -c $name.bpf.c -o ../$name.o
            done
            """
        let outcome = try ChildProcess.run("/bin/sh", ["-c", script])
        try #require(outcome.status == 0, "\(outcome)")
        return folder
    }
}
