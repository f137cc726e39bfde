import FoundationEssentials
import Glibc
import KnetCore
import KnetLinux

/// kube-proxy's chains in the kernel's old iptables, which only iptables' own programs can read and change.
struct LegacyTables {
    struct Table {
        let name: String
        let chains: [String]
        /// Rules of other chains that lead into those, as `-A CHAIN …`.
        let jumps: [String]
    }

    /// `iptables-legacy` or `ip6tables-legacy`.
    let name: String
    /// Lists the tables that are there.
    let names: String

    static let all = [
        LegacyTables(name: "iptables-legacy", names: "/proc/net/ip_tables_names"),
        LegacyTables(name: "ip6tables-legacy", names: "/proc/net/ip6_tables_names"),
    ]

    /// - Returns: nothing where the kernel has no such tables: to ask the program would make some.
    func tables() throws -> [Table] {
        guard let names = try? contents(ofFile: names), !names.isEmpty else { return [] }
        let saved = try ChildProcess.run("/usr/sbin/\(name)-save", [], seconds: 30)
        guard saved.status == 0 else { throw Failure(description: "\(name)-save: \(saved.errors)") }
        return Self.tables(saved.output)
    }

    static func tables(_ saved: String) -> [Table] {
        saved.split(separator: "\n").split { $0.hasPrefix("COMMIT") }.compactMap { lines in
            guard let name = lines.first(where: { $0.hasPrefix("*") })?.dropFirst() else { return nil }
            let chains = lines.filter { $0.hasPrefix(":") }.compactMap { $0.dropFirst().split(separator: " ").first }
            let jumps = lines.filter { line in
                let words = line.split(separator: " ")
                guard words.count > 2, words[0] == "-A", !KubeProxyRules.isOurs(words[1]) else { return false }
                return zip(words, words.dropFirst()).contains {
                    ["-j", "-g"].contains($0) && KubeProxyRules.isOurs($1)
                }
            }
            return Table(
                name: String(name), chains: chains.filter(KubeProxyRules.isOurs).map(String.init),
                jumps: jumps.map(String.init))
        }
    }

    /// One transaction for each table.
    func remove() throws {
        for table in try tables() where !table.chains.isEmpty {
            let lines =
                ["*\(table.name)"] + table.chains.map { ":\($0) - [0:0]" }
                + table.jumps.map { "-D" + $0.dropFirst(2) } + table.chains.map { "-X \($0)" } + ["COMMIT"]
            let file = FileManager.default.temporaryDirectory.appendingPathComponent("knetd-\(getpid()).rules")
            try Data((lines.joined(separator: "\n") + "\n").utf8).write(to: file)
            defer { unlink(file.path) }
            // Without --noflush the table's other chains would go too; a chain that is named is emptied.
            let outcome = try ChildProcess.run(
                "/usr/sbin/\(name)-restore", ["--noflush", "--wait=10", file.path], seconds: 60)
            guard outcome.status == 0 else { throw Failure(description: "\(name)-restore: \(outcome.errors)") }
        }
    }

    private struct Failure: Error, CustomStringConvertible {
        let description: String
    }
}
