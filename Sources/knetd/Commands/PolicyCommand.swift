import ArgumentParser
import Glibc
import KnetCore

struct PolicyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "policy",
        abstract: "Show network policies, why a connection is denied, and packets that were dropped.",
        subcommands: [List.self, Explain.self, Drops.self], defaultSubcommand: List.self)

    fileprivate static let plugin = "networkPolicy"

    fileprivate static func texts(_ value: JSONValue?) -> [String] { (value?.array ?? []).compactMap(\.string) }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Each policy, for how many pods of this node it holds, and how many packets its rules decided.")

        @OptionGroup var config: ConfigOption
        @Flag(help: "Print JSON.") var json = false

        func run() throws {
            let answer = try config.describe(plugin: plugin, [])
            print(json ? answer.text(pretty: true) : Self.text(answer))
        }

        private static func text(_ answer: JSONValue) -> String {
            (answer["policies"]?.array ?? []).flatMap { policy -> [String] in
                let title = "\(policy["kind"]?.string ?? "") \(policy["policy"]?.string ?? "")"
                return ["\(title)  holds for \(policy["pods"]?.integer ?? 0) pods here"]
                    + texts(policy["problems"]).map { "  ! \($0)" }
                    + ["ingress", "egress"].flatMap { direction in
                        (policy[direction]?.array ?? []).map { rule in
                            "  \(rule["rule"]?.string ?? "")  \(rule["action"]?.string ?? "")  "
                                + "\(rule["packets"]?.integer ?? 0) packets"
                        }
                    }
            }.joined(separator: "\n")
        }
    }

    struct Explain: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Which policies hold for a connection and which rule decides, by the objects and by the kernel.",
            discussion: "Exits with 1 where the connection is denied.")

        @OptionGroup var config: ConfigOption
        @Argument(help: "Who connects: NAME, NAMESPACE/NAME or an address.") var source: String
        @Argument(help: "To whom, as POD:PORT or POD:PORT/PROTOCOL (tcp, udp, sctp); an IPv6 address in brackets.")
        var target: String
        @Flag(help: "Print JSON.") var json = false

        func run() throws {
            let answer = try config.describe(plugin: plugin, ["explain", source, target]).array?.first ?? [:]
            print(json ? answer.text(pretty: true) : Self.text(answer))
            let ways = answer["ways"]?.array ?? []
            if ways.contains(where: { $0["verdict"] == "deny" }) { throw ExitCode(1) }
        }

        private static func text(_ answer: JSONValue) -> String {
            (answer["ways"]?.array ?? []).flatMap { way -> [String] in
                let ends = "\(way["source"]?.string ?? "") → \(way["destination"]?.string ?? "")"
                let port = "\(way["protocol"]?.string ?? "") \(way["port"]?.integer ?? 0)"
                return ["\(ends) \(port)  \(way["verdict"]?.string ?? "")"]
                    + ["egress", "ingress"].flatMap { direction -> [String] in
                        let side = way[direction]
                        let policies = texts(side?["policies"])
                        return [
                            "  \(direction): \(side?["verdict"]?.string ?? "") by \(side?["decides"]?.string ?? "")"
                        ] + (policies.isEmpty ? [] : ["    policies: \(policies.joined(separator: " "))"])
                            + texts(side?["kernel"]).map { "    kernel: \($0)" }
                    } + texts(way["faults"]).map { "  ! \($0)" }
            }.joined(separator: "\n")
        }
    }

    struct Drops: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Packets that were dropped, with the pods at both ends and the rule. It is a sample.")

        @OptionGroup var config: ConfigOption
        @Flag(help: "Go on until interrupted.") var follow = false
        @Flag(help: "Print a JSON object for each.") var json = false

        func run() throws {
            var last = 0
            repeat {
                let answer = try config.describe(plugin: plugin, ["drops", "\(last)"])
                for drop in answer["drops"]?.array ?? [] { print(json ? drop.text() : Self.text(drop)) }
                fflush(nil)
                last = answer["last"]?.integer ?? last
                if follow { usleep(250_000) }
            } while follow
        }

        private static func text(_ drop: JSONValue) -> String {
            func end(_ side: String, _ port: String) -> String {
                let port = drop[port]?.integer.map { ":\($0)" } ?? ""
                let address = drop[side]?.string ?? ""
                let pod = drop["\(side)Pod"]?.string.map { " (\($0))" } ?? ""
                return (address.contains(":") && !port.isEmpty ? "[\(address)]" : address) + port + pod
            }
            return "\(drop["time"]?.string ?? "") \(drop["protocol"]?.string ?? "") \(end("source", "sourcePort")) → "
                + "\(end("destination", "port"))  \(drop["direction"]?.string ?? "")  \(drop["reason"]?.string ?? "")"
        }
    }
}
