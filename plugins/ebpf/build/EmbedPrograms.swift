import Foundation
import PackagePlugin

/// Compiles the BPF programs with the toolchain's own clang, and puts them into the executable as text.
@main struct EmbedPrograms: BuildToolPlugin {
    func createBuildCommands(context: PluginContext, target: any Target) throws -> [Command] {
        let folder = target.directoryURL.deletingLastPathComponent().appending(path: "bpf")
        let clang = try context.tool(named: "clang").url
        let script = folder.appending(path: "embed.sh")
        let headers = [
            "include/knet.h", "packet.h", "ways.h", "flows.h", "streams.h", "translate.h", "translations.h",
            "balance.h",
        ].map { folder.appending(path: $0) }
        let sources = ["path", "socket"].map { folder.appending(path: "\($0).bpf.c") }
        let output = context.pluginWorkDirectoryURL.appending(path: "Embedded.swift")
        return [
            .buildCommand(
                displayName: "Compiling BPF programs", executable: URL(filePath: "/bin/sh"),
                arguments: [script.path, clang.path, output.path] + sources.map(\.path),
                inputFiles: [script] + headers + sources, outputFiles: [output])
        ]
    }
}
