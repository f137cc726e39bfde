import ArgumentParser
import KnetCore

struct BGPCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bgp", abstract: "Show BGP sessions and routes.", subcommands: [Peers.self, Routes.self])

    struct Peers: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show the sessions: their state, since when, and why one is down.")

        @OptionGroup var config: ConfigOption
        @Flag(help: "Print JSON.") var json = false

        func run() throws {
            let told = try config.describe(plugin: "bgp", ["peers"])
            print(json ? told.text(pretty: true) : (told.array ?? []).map(Self.line).joined(separator: "\n"))
        }

        private static func line(_ peer: JSONValue) -> String {
            func number(_ name: String) -> Int { peer[name]?.integer ?? 0 }
            var line =
                "\(peer["peer"]?.string ?? "")  AS \(number("as"))  \(peer["state"]?.string ?? "") for \(number("seconds")) s  "
                + "\(number("learnt")) learnt, \(number("filtered")) filtered, \(number("advertised")) advertised"
            if peer["state"]?.string != "Established", let reason = peer["lastDown"]?.string { line += "  \(reason)" }
            if let liveness = peer["bfd"]?.string { line += "  BFD \(liveness)" }
            if let fault = peer["lastFault"]?.string { line += "  last error: \(fault)" }
            return line
        }
    }

    struct Routes: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show what is advertised to whom, and why not, and what is learnt of whom.")

        @OptionGroup var config: ConfigOption
        @Flag(help: "Print JSON.") var json = false

        func run() throws {
            let told = try config.describe(plugin: "bgp", ["routes"])
            print(json ? told.text(pretty: true) : Self.text(told))
        }

        private static func text(_ told: JSONValue) -> String {
            var lines: [String] = []
            for route in told["advertised"]?.array ?? [] {
                let peers = (route["to"]?.array ?? []).compactMap(\.string)
                lines.append(
                    "advertised \(route["prefix"]?.string ?? "")  to \(peers.isEmpty ? "nobody" : peers.joined(separator: " "))"
                )
                for peer in route["notTo"]?.array ?? [] {
                    lines.append("    not to \(peer["peer"]?.string ?? ""): \(peer["reason"]?.string ?? "")")
                }
            }
            for route in told["learnt"]?.array ?? [] {
                let hops = (route["by"]?.array ?? []).map { hop in
                    "\(hop["nextHop"]?.string ?? "") (AS path \(hop["path"]?.string ?? ""))\(hop["stale"] == true ? " stale" : "")"
                }
                let refused = route["refused"]?.string.map { "  refused: \($0)" } ?? ""
                lines.append("learnt \(route["prefix"]?.string ?? "")  by \(hops.joined(separator: ", "))\(refused)")
            }
            return lines.joined(separator: "\n")
        }
    }
}
